"""Renders chat templates with Python's Jinja2, set up as `transformers` sets it up.

Input: one JSON object on stdin, {"template": source, "now": seconds, "cases": [{"variables": {...}, "continue": bool}]},
where the variables are what vLLM hands to the template. Output: a JSON array, for each case {"text": ...} or
{"error": ...}. Follows `_compile_jinja_template` and `render_jinja_template` in
transformers/utils/chat_template_utils.py.
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


def render(template, variables, continued):
    if not continued:
        return template.render(**variables)
    messages, final = tag_final_message(variables["messages"])
    text = template.render(**{**variables, "messages": messages})
    if final.strip() not in text or TAG.strip() not in text:
        raise ValueError("the final message does not appear")
    at = text.rindex(TAG.strip())
    return text[:at] if text[at : at + len(TAG)] == TAG else text[:at].rstrip()


def main():
    job = json.load(sys.stdin)
    env = environment(job["now"])
    results = []
    for case in job["cases"]:
        try:
            template = env.from_string(case.get("template", job.get("template")))
            results.append({"text": render(template, case["variables"], case.get("continue", False))})
        except Exception as error:
            results.append({"error": f"{type(error).__name__}: {error}"})
    json.dump(results, sys.stdout)


main()
