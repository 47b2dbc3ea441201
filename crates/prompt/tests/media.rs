//! Images, audio and video: what of a prompt does not depend on them.

use std::fmt::Write;

use prompt::{Body, ChatTemplate, Media, ModelText, Prompt, PromptError, Shape};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Takes texts.
const TEXT: &str =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{{ '<assistant>' if add_generation_prompt }}";
/// Takes parts, and writes a number before each image.
const PARTS: &str = "{% set n = namespace(i=0) %}{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}\
    {% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}{% set n.i = n.i + 1 %}{{ n.i }}:<|{{ p.type }}|>\
    {% endif %}{% endfor %}{% endif %}</>{% endfor %}{{ '<assistant>' if add_generation_prompt }}";

fn compile(source: &str) -> ChatTemplate {
    let text = ModelText {
        chat_template: Some(source.to_owned()),
        ..ModelText::default()
    };
    ChatTemplate::compile(&text).unwrap()
}

/// The text before the first medium, and how many there are; of a prompt without any, all of it.
fn before_media(template: &str, shape: Shape, body: &Value) -> Result<(String, usize), PromptError> {
    let bytes = body.to_string();
    let body = Body::read(shape, bytes.as_bytes()).unwrap();
    match body.prompt(Some(&compile(template)))? {
        Prompt::Text { text, media, .. } => {
            let Media { count, before, .. } = media.unwrap_or(Media {
                count: 0,
                before: text.len(),
                images: Vec::new(),
            });
            Ok((text[..before].to_owned(), count))
        }
        other => panic!("{other:?}"),
    }
}

fn check(template: &str, shape: Shape, body: Value, expected: &str, count: usize) {
    let found = before_media(template, shape, &body);
    assert_eq!(found, Ok((expected.to_owned(), count)), "{template} {body}");
}

fn user(parts: Value) -> Value {
    json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]})
}

#[test]
fn every_part_that_engines_take() {
    let text = json!({"type": "text", "text": "a"});
    for (part, kind) in [
        (json!({"type": "image_url", "image_url": {"url": "x"}}), "image"),
        (json!({"type": "image_embeds", "image_embeds": "AA=="}), "image"),
        (json!({"type": "image_pil", "image_pil": null, "uuid": "u"}), "image"),
        (json!({"type": "input_image", "image_url": "x"}), "image"),
        (json!({"image_url": "x"}), "image"),
        (json!({"type": "image_url", "image_url": null, "uuid": "u"}), "image"),
        (
            json!({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
            "audio",
        ),
        (json!({"type": "audio_url", "audio_url": {"url": "x"}}), "audio"),
        (json!({"type": "audio_embeds", "audio_embeds": "AA=="}), "audio"),
        (json!({"audio_url": "x"}), "audio"),
        (json!({"type": "video_url", "video_url": {"url": "x"}}), "video"),
        (json!({"type": "video_embeds", "video_embeds": "AA=="}), "video"),
    ] {
        let body = user(json!([text, part, text]));
        // All placeholders of a message may stand before its texts.
        check(TEXT, Shape::Chat, body.clone(), "<system>s</><user>", 1);
        check(PARTS, Shape::Chat, body.clone(), "<system>s</><user>a", 1);
        let (bytes, template) = (body.to_string(), compile(PARTS));
        let body = Body::read(Shape::Chat, bytes.as_bytes()).unwrap();
        let Ok(Prompt::Text { text, .. }) = body.prompt(Some(&template)) else {
            panic!("{part}");
        };
        assert_eq!(
            text,
            format!("<system>s</><user>a1:<|{kind}|>a</><assistant>"),
            "{part}"
        );
    }
    let embeddings = user(json!([text, {"type": "prompt_embeds", "data": "AA=="}, text]));
    check(TEXT, Shape::Chat, embeddings.clone(), "<system>s</><user>a\n", 1);
    check(PARTS, Shape::Chat, embeddings, "<system>s</><user>a", 1);
}

#[test]
fn every_shape() {
    let image = json!({"type": "image", "source": {"type": "base64", "data": "AA=="}});
    let nothing = json!({"type": "image", "source": {"type": "url", "url": ""}});
    let result = |content: Value| json!({"type": "tool_result", "tool_use_id": "x", "content": content});
    let text = json!({"type": "text", "text": "a"});
    let messages = |blocks: Value| json!({"system": "s", "messages": [{"role": "user", "content": blocks}]});
    check(
        PARTS,
        Shape::Messages,
        messages(json!([text, image, image])),
        "<system>s</><user>a",
        2,
    );
    check(
        TEXT,
        Shape::Messages,
        messages(json!([text, image])),
        "<system>s</><user>",
        1,
    );
    let without = messages(json!([text, {"type": "image", "source": {}}]));
    check(PARTS, Shape::Messages, without, "<system>s</><user>a</><assistant>", 0);
    // The images of a tool result come in a message after it, which comes before the rest of its own.
    let results = messages(json!([text, result(json!([image, text])), result(json!([nothing]))]));
    check(PARTS, Shape::Messages, results, "<system>s</><tool>a</><user>", 1);
    let input = json!([{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "x"}]}]);
    check(
        PARTS,
        Shape::Responses,
        json!({"instructions": "s", "input": input}),
        "<system>s</><user>a",
        1,
    );
    let output =
        json!({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "x"}]});
    check(PARTS, Shape::Responses, json!({"input": [output]}), "<tool>", 1);
    let embedded = json!([{"role": "user", "content": [text, {"type": "image_url", "image_url": {"url": "x"}}]}]);
    check(PARTS, Shape::Embeddings, json!({"messages": embedded}), "<user>a", 1);
}

#[test]
fn what_looks_ahead_ends_the_text_early() {
    let look = "{% set n = namespace(has=false) %}{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}\
        {% set n.has = true %}{% endif %}{% endfor %}{% endfor %}";
    let body = user(json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]));
    let first = format!("{look}start{{{{ ' with image' if n.has }}}}{PARTS}");
    check(&first, Shape::Chat, body.clone(), "start", 1);
    let last = format!("{look}{PARTS}{{{{ ' with image' if n.has }}}}");
    check(&last, Shape::Chat, body.clone(), "<system>s</><user>a", 1);
    let left_out = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}";
    let error = before_media(left_out, Shape::Chat, &body).unwrap_err();
    assert_eq!(
        (error.reason(), error.to_string().contains("leaves out")),
        ("multimodal", true)
    );
}

/// What stands in for media here could not be told from it.
#[test]
fn texts_with_our_marks_are_not_read() {
    let image = json!({"type": "image_url", "image_url": {"url": "x"}});
    let left_out = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}";
    for mark in ["\u{fdd0}", "\u{fdd1}"] {
        let body = user(json!([{"type": "text", "text": format!("{mark}\n{mark}a")}, image]));
        for template in [TEXT, PARTS, left_out] {
            let error = before_media(template, Shape::Chat, &body).unwrap_err();
            assert_eq!(error.reason(), "multimodal", "{mark:?} {template}");
        }
    }
}

#[test]
fn a_continued_message_may_hold_media() {
    let body = |parts: Value| {
        json!({"messages": [{"role": "user", "content": parts}], "continue_final_message": true,
        "add_generation_prompt": false})
    };
    let (text, image) = (
        json!({"type": "text", "text": "a"}),
        json!({"type": "image_url", "image_url": {"url": "x"}}),
    );
    check(PARTS, Shape::Chat, body(json!([image, text])), "<user>", 1);
    // The prompt ends after the last text, so without the image.
    let cut_off = before_media(PARTS, Shape::Chat, &body(json!([text, image])));
    assert_eq!(cut_off.unwrap_err().reason(), "multimodal");
    let no_text = before_media(PARTS, Shape::Chat, &body(json!([image])));
    assert_eq!(no_text.unwrap_err().reason(), "bad_field");
}

/// One part of a message; `None`: an image.
fn parts() -> impl Strategy<Value = Vec<Option<String>>> {
    proptest::collection::vec(
        prop_oneof![2 => "[a-z <>\n]{0,6}".prop_map(Some), 1 => Just(None)],
        1..5,
    )
}

/// As the engine sees a message whose images became texts: each where it stood, or all at the start.
fn replaced(parts: &[Option<String>], replacement: &str, in_place: bool) -> Vec<String> {
    let images = parts.iter().filter(|part| part.is_none()).count();
    let first = if in_place { 0 } else { images };
    let rest = parts.iter().filter_map(|part| match part {
        Some(text) => Some(text.clone()),
        None => in_place.then(|| replacement.to_owned()),
    });
    std::iter::repeat_n(replacement.to_owned(), first).chain(rest).collect()
}

proptest! {
    #[test]
    fn nothing_before_media_depends_on_them(
        messages in proptest::collection::vec(parts(), 1..5),
        replacement in "[a-z<>|\\[\\]]{1,8}",
        in_place in any::<bool>(),
        takes_parts in any::<bool>(),
    ) {
        let template = if takes_parts { PARTS } else { TEXT };
        let roles = ["user", "assistant"].into_iter().cycle();
        let sent: Vec<_> = messages.iter().zip(roles.clone()).map(|(parts, role)| {
            let parts = parts.iter().map(|part| match part {
                Some(text) => json!({"type": "text", "text": text}),
                None => json!({"type": "image_url", "image_url": {"url": "x"}}),
            });
            json!({"role": role, "content": parts.collect::<Vec<_>>()})
        }).collect();
        let (before, count) = before_media(template, Shape::Chat, &json!({"messages": sent})).unwrap();
        let mut expected = String::new();
        for (parts, role) in messages.iter().zip(roles) {
            let texts = replaced(parts, &replacement, takes_parts || in_place);
            let texts: Vec<_> = texts.iter().filter(|text| takes_parts || !text.is_empty()).map(String::as_str).collect();
            let content = texts.join(if takes_parts { "" } else { "\n" });
            write!(expected, "<{role}>{content}</>").unwrap();
        }
        expected.push_str("<assistant>");
        prop_assert!(expected.starts_with(&before), "{before:?} {expected:?}");
        prop_assert_eq!(count, messages.iter().flatten().filter(|part| part.is_none()).count());
        prop_assert!(count > 0 || before == expected);
        let first = sent.iter().position(|message| message.to_string().contains("image_url")).unwrap_or(0);
        let bytes_of_whole_messages: usize = before.matches("</>").count();
        prop_assert!(bytes_of_whole_messages >= first, "whole messages before the first image count");
    }
}
