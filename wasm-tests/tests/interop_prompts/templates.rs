//! Templates besides those of models.

/// Names, sources, and with which parser of reasoning their worker runs.
pub(crate) const ALL: [(&str, &str, Option<&str>); 7] = [
    ("shows", SHOWS, None),
    ("shows_thinking", SHOWS, Some("qwen3")),
    ("shows_kimi", SHOWS, Some("kimi_k25")),
    ("shows_reasoning", SHOWS_REASONING, None),
    ("argument_texts", ARGUMENT_TEXTS, None),
    ("strict", STRICT, None),
    ("parts", PARTS, None),
];

/// Shows all that it is given.
const SHOWS: &str = "{% for m in messages %}[{{ m.role }}|{{ m.content | tojson if m.content is defined else 'absent' }}|\
     {{ m.tool_calls | tojson if m.tool_calls is defined }}|{{ m.tool_call_id }}|{{ m.name }}|{{ m.refusal }}|{{ m.content }}]\n\
     {% endfor %}{{ tools | tojson }}|{{ tools }}|{{ add_generation_prompt }}|{{ reasoning_effort }}|{{ enable_thinking }}|{{ thinking }}|\
     {{ thinking_mode }}|{{ truncate_history_thinking }}|{{ flag }}|{{ flag | tojson }}|{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}";

/// Knows reasoning, as a text or a list.
const SHOWS_REASONING: &str = "{% for m in messages %}[{{ m.role }}|{{ m.content | tojson if m.content is defined }}|\
     {% if m.reasoning_content is string %}{{ m.reasoning_content }}{% else %}{% for s in m.reasoning_content %}({{ s }}){% endfor %}\
     {% endif %}|{{ m.tool_calls | length }}]{% endfor %}";

/// Knows reasoning as a text only, and writes arguments that are a text as they are.
const ARGUMENT_TEXTS: &str = "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content is string %}({{ m.reasoning_content }}){% endif %}{{ m.content }}\
     {% for call in m.tool_calls %}{{ call.function.name }}{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}\
     {{ call.function.arguments | tojson }}{% endif %}{% endfor %}\n{% endfor %}{{ 'assistant:' if add_generation_prompt }}";

/// Takes a system message at the start only, and no two messages of the user in a row.
const STRICT: &str = "{% set last = namespace(role='') %}{% for m in messages %}{% if m.role == 'system' and not loop.first %}\
     {{ raise_exception('system first') }}{% endif %}{% if m.role == 'user' and last.role == 'user' %}{{ raise_exception('users apart') }}{% endif %}\
     {% set last.role = m.role %}<{{ m.role }}>{{ m.content }}\n{% endfor %}";

/// Takes parts only, and has line breaks of Windows.
const PARTS: &str = "{% for m in messages %}\r\n<{{ m.role }}>\r\n{% if m.content is not string %}{% for part in m.content %}\
     {% if part.type == 'text' %}{{ part.text }}{% else %}<|vision_start|>{{ part.type }}{% endif %}{% endfor %}{% endif %}\r\n{% endfor %}";
