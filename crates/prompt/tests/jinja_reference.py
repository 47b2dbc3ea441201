"""Makes prompts of chat requests with Python's Jinja2, set up as `transformers` sets it up.

Input on stdin: {"templates": [{"source", "format": "text" | "parts", "special_tokens": {...}}], "now": seconds,
"cases": [{"template": index, "body": the request as text}]}. A case with "variables" instead of "body" renders its own
"source" with them. Output: a JSON array, for each case {"text": ...} or {"error": ...}.

Written from `render_jinja_template` of transformers/utils/chat_template_utils.py and from vLLM's request model and
vllm/entrypoints/chat_utils.py, apart from the Rust code that it checks.
"""

import copy
import json
import sys
from datetime import datetime, timezone

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class GenerationTag(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(now):
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.fromtimestamp(now, timezone.utc).replace(tzinfo=None).strftime(form)
    return env


def tag_final_message(messages):
    messages = copy.deepcopy(messages)
    last = messages[-1]
    if isinstance(last["content"], list):
        for part in reversed(last["content"]):
            if "text" in part:
                final = part["text"]
                part["text"] += TAG
                return messages, final
        raise ValueError("no text to continue")
    final = last["content"]
    last["content"] += TAG
    return messages, final


def ordered(value, known):
    """What pydantic makes of a typed dict: known keys in the order of the type, then the others."""
    return {**{key: value[key] for key in known if key in value}, **value}


def tool_call(call):
    call = ordered(call, ["id", "function", "type"])
    call["function"] = ordered(call["function"], ["arguments", "name"])
    arguments = call["function"].get("arguments")
    if isinstance(arguments, str):
        try:
            call["function"]["arguments"] = json.loads(arguments)
        except json.JSONDecodeError:
            call["function"]["arguments"] = {}
    return call


def part_text(part):
    if isinstance(part, str):
        return part
    fields = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
    return part[fields[part["type"]]]


def message(given, form):
    role, content = given["role"], given.get("content")
    parts = [content] if isinstance(content, str) else content or []
    texts = [part_text(part) for part in parts]
    if form == "text":
        result = {"role": role, "content": "\n".join(text for text in texts if text)}
    elif role == "tool":
        result = {"role": role, "content": "\n".join(texts)}
    else:
        result = {"role": role, "content": [{"type": "text", "text": text} for text in texts]}
    if role == "assistant":
        if given.get("tool_calls"):
            result["tool_calls"] = [tool_call(call) for call in given["tool_calls"]]
        reasoning = given.get("reasoning")
        if reasoning is None:
            reasoning = given.get("reasoning_content")
        if reasoning is not None:
            result["reasoning"] = result["reasoning_content"] = reasoning
    if role == "tool" and "tool_call_id" in given:
        result["tool_call_id"] = given["tool_call_id"]
    if isinstance(given.get("name"), str):
        result["name"] = given["name"]
    if role == "developer":
        result["tools"] = given.get("tools")
    return result


def tool(given):
    function = given["function"]
    dumped = {key: function.get(key) for key in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        dumped["strict"] = function["strict"]
    return {"type": "function", "function": dumped}


def variables(body, template):
    tools = body.get("tools")
    values = {
        **template["special_tokens"],
        "documents": None,
        **(body.get("chat_template_kwargs") or {}),
    }
    effort = body.get("reasoning_effort")
    if effort is not None:
        values["reasoning_effort"] = effort
        if "enable_thinking" not in (body.get("chat_template_kwargs") or {}):
            values["enable_thinking"] = effort != "none"
    if body.get("documents") is not None:
        values["documents"] = body["documents"]
    values["add_generation_prompt"] = body.get("add_generation_prompt", True)
    values["tools"] = [tool(given) for given in tools] if tools else None
    values["messages"] = [message(given, template["format"]) for given in body["messages"]]
    return values


def render(template, variables, continued):
    if not continued:
        return template.render(**variables)
    messages, final = tag_final_message(variables["messages"])
    text = template.render(**{**variables, "messages": messages})
    if final.strip() not in text or TAG.strip() not in text:
        raise ValueError("the final message does not appear")
    at = text.rindex(TAG.strip())
    return text[:at] if text[at : at + len(TAG)] == TAG else text[:at].rstrip()


def run(env, job, case):
    if "variables" in case:
        return env.from_string(case["source"]).render(**case["variables"])
    template = job["templates"][case["template"]]
    body = json.loads(case["body"])
    compiled = env.from_string(template["source"])
    return render(compiled, variables(body, template), body.get("continue_final_message", False))


def main():
    job = json.load(sys.stdin)
    env = environment(job["now"])
    results = []
    for case in job["cases"]:
        try:
            results.append({"text": run(env, job, case)})
        except Exception as error:
            results.append({"error": f"{type(error).__name__}: {error}"})
    json.dump(results, sys.stdout)


main()
