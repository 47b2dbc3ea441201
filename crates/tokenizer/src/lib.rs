//! Exact token ids from text
