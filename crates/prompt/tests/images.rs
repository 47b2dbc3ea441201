//! Images of which everything is known: how many tokens they are, against the image processor of `transformers`
//! (`data/qwen_vl_images.py`), and where they stand.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prompt::{Body, ChatTemplate, Image, ImageProcessor, Media, ModelText, Prompt, PromptError, Shape};
use proptest::prelude::*;
use serde_json::{Value, json};

const PAD: &str = "<|image_pad|>";
/// Takes parts, as the templates of Qwen-VL do.
const PARTS: &str = "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}\
    {% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% elif p.type == 'image' %}<|image_pad|>\
    {% else %}<|video_pad|>{% endif %}{% endfor %}{% endif %}</>{% endfor %}";
/// Takes texts.
const TEXT: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}";

/// Of Qwen2-VL.
fn processor() -> ImageProcessor {
    ImageProcessor {
        placeholder: PAD.to_owned(),
        placeholder_id: 7,
        patch_size: 14,
        merge_size: 2,
        min_pixels: 3_136,
        max_pixels: 12_845_056,
    }
}

fn recorded() -> (Vec<(ImageProcessor, Value)>, Value) {
    let recorded: Value = serde_json::from_str(include_str!("data/qwen_vl_images.json")).unwrap();
    let processors = recorded["processors"].as_array().unwrap().iter().map(|settings| {
        let number = |name: &str| u32::try_from(settings[name].as_u64().unwrap()).unwrap();
        let processor = ImageProcessor {
            patch_size: number("patch_size"),
            merge_size: number("merge_size"),
            min_pixels: number("min_pixels"),
            max_pixels: number("max_pixels"),
            ..processor()
        };
        (processor, settings["sizes"].clone())
    });
    (processors.collect(), recorded["files"].clone())
}

#[test]
fn sizes_become_as_many_tokens_as_in_transformers() {
    let (processors, _) = recorded();
    let mut refused = 0;
    for (processor, sizes) in &processors {
        let sizes: Vec<(u32, u32, Option<usize>)> = serde_json::from_value(sizes.clone()).unwrap();
        assert!(sizes.len() > 150, "{}", sizes.len());
        for (width, height, tokens) in sizes {
            assert_eq!(processor.tokens([width, height]), tokens, "{width} x {height}");
            refused += usize::from(tokens.is_none());
        }
    }
    assert!(refused > 20, "{refused}");
}

/// How files start.
const MAGIC: [&[u8]; 7] = [
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"\xff\xd8\xff",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"RIFF\0\0\0\0WEBPVP8L",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"GIF89a",
    b"",
];

proptest! {
    /// So it does not matter whether a photo is turned.
    #[test]
    fn sides_can_be_swapped(width in 0..20_000_u32, height in 0..20_000_u32, settings in any::<[u32; 4]>()) {
        let [patch_size, merge_size, min_pixels, max_pixels] = settings;
        let others = ImageProcessor { patch_size, merge_size, min_pixels, max_pixels, ..processor() };
        for processor in [processor(), others] {
            prop_assert_eq!(processor.tokens([width, height]), processor.tokens([height, width]));
        }
    }

    #[test]
    fn only_long_strips_are_refused(short in 1..300_u32, ratio in 1..220_u32, more in 0..300_u32) {
        let long = short * ratio + more % short;
        let tokens = processor().tokens([short, long]);
        prop_assert_eq!(tokens.is_some(), long <= 200 * short, "{} {}", short, long);
        // At most a row more than the limit has: it is kept by rounding down.
        prop_assert!(tokens.is_none_or(|tokens| tokens * 28 * 28 <= 12_845_056 + 28 * 28 * 200));
    }

    /// What is in front of a file's data is untrusted.
    #[test]
    fn no_header_is_too_odd(
        magic in proptest::sample::select(&MAGIC),
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xff), Just(0), Just(0xd8), Just(0xc0)], 0..200),
    ) {
        let file = [magic, &rest].concat();
        let media = read(PARTS, &user(json!([image("u", &data_url(&file))]))).unwrap();
        prop_assert!(media.images.len() <= 1);
    }
}

fn data_url(file: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(file))
}

fn png(width: u32, height: u32) -> Vec<u8> {
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        &width.to_be_bytes()[..],
        &height.to_be_bytes(),
    ]
    .concat()
}

fn image(uuid: &str, url: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": url}, "uuid": uuid})
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn user(parts: Value) -> Value {
    json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]})
}

fn prompt_of(template: &str, shape: Shape, body: &Value) -> Result<(String, Media), PromptError> {
    let text = ModelText {
        chat_template: Some(template.to_owned()),
        images: Some(processor()),
        ..ModelText::default()
    };
    let bytes = body.to_string();
    let body = Body::read(shape, bytes.as_bytes()).unwrap();
    match body.prompt(Some(&ChatTemplate::compile(&text).unwrap()))? {
        Prompt::Text {
            text,
            media: Some(media),
            ..
        } => Ok((text.into_owned(), media)),
        other => panic!("{other:?}"),
    }
}

fn read(template: &str, body: &Value) -> Result<Media, PromptError> {
    prompt_of(template, Shape::Chat, body).map(|(_, media)| media)
}

fn tokens_of_file(file: &[u8]) -> Option<usize> {
    let media = read(PARTS, &user(json!([image("u", &data_url(file))]))).unwrap();
    media.images.first().map(|image| image.tokens)
}

#[test]
fn files_have_the_size_that_engines_see() {
    let (_, files) = recorded();
    for file in files.as_array().unwrap() {
        let bytes = STANDARD.decode(file["base64"].as_str().unwrap()).unwrap();
        let expected = usize::try_from(file["tokens"][0].as_u64().unwrap()).unwrap();
        assert_eq!(tokens_of_file(&bytes), Some(expected), "{}", file["name"]);
    }
    // A photo with previews and color profiles, of some size and of too much.
    let jpeg = files
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["name"] == "jpeg")
        .unwrap();
    let jpeg = STANDARD.decode(jpeg["base64"].as_str().unwrap()).unwrap();
    let segment = [&b"\xff\xe2\xff\xff"[..], &[0; 0xfffd]].concat();
    for (segments, expected) in [(1, Some(6)), (2, Some(6)), (4, None)] {
        let photo = [&jpeg[..2], &segment.repeat(segments), &jpeg[2..]].concat();
        assert_eq!(tokens_of_file(&photo), expected, "{segments}");
    }
}

#[test]
fn images_stand_where_their_placeholders_do() {
    let (small, large) = (data_url(&png(56, 56)), data_url(&png(560, 280)));
    let body = user(json!([
        text("ä"),
        image("one", &small),
        text("b"),
        image("two", &large),
        text("c")
    ]));
    let (text, media) = prompt_of(PARTS, Shape::Chat, &body).unwrap();
    assert_eq!(text, "<system>s</><user>ä<|image_pad|>b<|image_pad|>c</>");
    let found = |identifier: &str, at: usize, tokens| Image {
        identifier: identifier.to_owned(),
        at,
        token: 7,
        tokens,
    };
    let [first, second] = [text.find(PAD).unwrap(), text.rfind(PAD).unwrap()];
    let expected = Media {
        count: 2,
        before: text.len(),
        images: vec![found("one", first, 4), found("two", second, 200)],
    };
    assert_eq!(media, expected);
}

/// How much of a prompt counts, and the images in that.
#[track_caller]
fn check(template: &str, body: &Value, expected: &str, images: &[&str]) {
    let (text, media) = prompt_of(template, Shape::Chat, body).unwrap();
    let found: Vec<_> = media.images.iter().map(|image| &*image.identifier).collect();
    assert_eq!((&text[..media.before], &*found), (expected, images), "{body}");
}

#[test]
fn a_prompt_counts_up_to_the_first_medium_that_is_not_known() {
    let known = |uuid: &str| image(uuid, &data_url(&png(56, 56)));
    let data = data_url(&png(56, 56));
    let unknown = [
        json!({"type": "image_url", "image_url": {"url": data}}),
        json!({"type": "image_url", "image_url": {"url": data}, "uuid": ""}),
        json!({"type": "image_url", "image_url": {"url": data}, "uuid": 7}),
        image("u", "https://pictures.example/a"),
        json!({"type": "image_url", "image_url": null, "uuid": "u"}),
        json!({"type": "image_url", "image_url": {}, "uuid": "u"}),
        json!({"type": "image_embeds", "image_embeds": "AA==", "uuid": "u"}),
        image("u", &data_url(&png(1, 201))),
        image("u", &data_url(&png(0, 5))),
        image("u", &data_url(&png(100_000, 100_000))),
        image("u", &data_url(b"no image")),
        image("u", "data:image/png;base64,%%%%"),
        image("u", &data.replace(";base64", "")),
        json!({"type": "video_url", "video_url": {"url": data}, "uuid": "u"}),
        json!({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
    ];
    for part in unknown {
        let body = user(json!([
            text("a"),
            known("one"),
            text("b"),
            part,
            text("c"),
            known("two")
        ]));
        check(PARTS, &body, "<system>s</><user>a<|image_pad|>b", &["one"]);
        let body = user(json!([text("a"), part, text("c"), known("two")]));
        check(PARTS, &body, "<system>s</><user>a", &[]);
    }
    // The keys decide, in each of the forms that vLLM takes.
    for part in [
        json!({"image_url": data, "uuid": "one"}),
        json!({"type": "input_image", "image_url": data, "uuid": "one"}),
    ] {
        check(
            PARTS,
            &user(json!([part])),
            "<system>s</><user><|image_pad|></>",
            &["one"],
        );
    }
}

#[test]
fn what_changes_images_makes_them_unknown() {
    let known = image("one", &data_url(&png(56, 56)));
    let body = user(json!([text("a"), known]));
    let all = "<system>s</><user>a<|image_pad|></>";
    let with = |name: &str, options: Value| {
        let mut body = body.clone();
        body[name] = options;
        body
    };
    check(PARTS, &body, all, &["one"]);
    for name in ["mm_processor_kwargs", "media_io_kwargs"] {
        check(PARTS, &with(name, json!({})), all, &["one"]);
        check(PARTS, &with(name, Value::Null), all, &["one"]);
        check(
            PARTS,
            &with(name, json!({"max_pixels": 5_000})),
            "<system>s</><user>a",
            &[],
        );
    }
    // Where placeholders stand in texts depends on the workers' command line.
    check(TEXT, &body, "<system>s</><user>", &[]);
    // Engines would put the image in the place of the first placeholder, the client's.
    let forged = user(json!([text("a<|image_pad|>b"), known, text("c")]));
    check(PARTS, &forged, "<system>s</><user>a<|image_pad|>b", &[]);
    let behind = user(json!([text("a"), known, text("b<|image_pad|>")]));
    check(PARTS, &behind, "<system>s</><user>a", &[]);
    let left_out = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}";
    assert_eq!(read(left_out, &body).unwrap_err().reason(), "multimodal");
    // Shapes other than chats have no `uuid`, or drop it.
    let input = json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": data_url(&png(56, 56)), "uuid": "one"}]}]});
    let (_, media) = prompt_of(PARTS, Shape::Responses, &input).unwrap();
    assert_eq!(media.images, []);
}

/// A header of some bytes cannot ask for much work.
#[test]
fn many_large_images_are_too_much_work() {
    let part = image("u", &data_url(&png(10_000, 10_000)));
    let body = user(Value::Array(vec![part; 2_000]));
    assert_eq!(read(PARTS, &body).unwrap_err().reason(), "template_limit");
}
