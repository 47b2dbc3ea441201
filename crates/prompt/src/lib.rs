//! From an OpenAI-style request body to the prompt text, and usage out of a response
