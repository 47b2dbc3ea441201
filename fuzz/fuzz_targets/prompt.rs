//! Request bodies of every shape to prompts. The first byte says which shape, and whose rules.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prompt::template::output_limit;
use prompt::token_data::Splice;
use prompt::{Body, ChatTemplate, Frontend, ImageProcessor, ModelText, Prompt, Rules, Shape};

const SHAPES: [Shape; 5] = [
    Shape::Chat,
    Shape::Completions,
    Shape::Responses,
    Shape::Messages,
    Shape::Embeddings,
];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else {
        return;
    };
    let choice = usize::from(choice);
    let (shape, template) = (SHAPES[choice % 5], &TEMPLATES[choice / 5 % TEMPLATES.len()]);
    let Ok(read) = Body::read(shape, body) else { return };
    let Ok(prompt) = read.prompt(Some(template)) else {
        return;
    };
    assert!(length(&prompt) <= output_limit(body.len()));
    images_have_their_placeholders(&prompt);
    // Token ids in the body are for the worker, and change no prompt.
    if let Some(splice) = Splice::token_data(body, &[1]) {
        let spliced = splice.apply(body).expect("the range is in the body");
        let again = Body::read(shape, &spliced).expect("it is still one");
        assert_eq!(again.prompt(Some(template)).ok(), Some(prompt));
    }
});

fn images_have_their_placeholders(prompt: &Prompt<'_>) {
    let Prompt::Text {
        text,
        media: Some(media),
        ..
    } = prompt
    else {
        return;
    };
    assert!(media.images.len() <= media.count && media.images.is_sorted_by_key(|image| image.at));
    for image in &media.images {
        let end = image.at + PLACEHOLDER.len();
        assert_eq!(&text[image.at..end], PLACEHOLDER);
        assert!(end <= media.before && image.tokens > 0);
    }
}

fn length(prompt: &Prompt<'_>) -> usize {
    match prompt {
        Prompt::Text { text, .. } | Prompt::Truncated { text, .. } => text.len(),
        Prompt::Pieces(pieces) => pieces.iter().map(|piece| piece.as_str().len()).sum(),
        // The least that an id takes in a body.
        Prompt::Tokens(ids) => ids.len() * 2,
    }
}

/// Looks at everything that a request may bring.
const CURIOUS: &str = "{{ tools | default(none) | tojson }}{% for m in messages %}{{ m.role }}{{ m | tojson }}{{ m.content | trim }}\
    {% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}\
    {{ documents | default([]) | tojson }}{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}\
    {% if add_generation_prompt %}>{% endif %}";

/// Takes parts.
const IMAGES: &str = "{% for m in messages %}{{ m.role }}{% for p in m.content %}{% if p.type == 'image' %}<|image_pad|>\
    {% else %}{{ p.text or p.type }}{% endif %}{% endfor %}{% endfor %}";
const PLACEHOLDER: &str = "<|image_pad|>";

static TEMPLATES: LazyLock<[ChatTemplate; 4]> = LazyLock::new(|| {
    let dynamo = Rules {
        frontend: Frontend::Dynamo,
        ..Rules::default()
    };
    let harmony = Rules {
        harmony: true,
        ..Rules::default()
    };
    let images = ImageProcessor {
        placeholder: PLACEHOLDER.to_owned(),
        placeholder_id: 7,
        patch_size: 14,
        merge_size: 2,
        min_pixels: 3_136,
        max_pixels: 12_845_056,
    };
    [
        (Some(CURIOUS), Rules::default(), None),
        (Some(CURIOUS), dynamo, None),
        (None, harmony, None),
        (Some(IMAGES), Rules::default(), Some(images)),
    ]
    .map(|(template, rules, images)| {
        let text = ModelText {
            chat_template: template.map(str::to_owned),
            rules,
            images,
            ..ModelText::default()
        };
        ChatTemplate::compile(&text).expect("it compiles")
    })
});
