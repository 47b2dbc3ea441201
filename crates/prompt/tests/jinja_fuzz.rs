//! Templates from a seed, rendered by Python's Jinja2 and here: whatever both can render must be the same text.
//!
//! `WARMPATH_JINJA_FUZZ` may name more rounds than the default.

mod support;

use serde_json::{Value, json};
use support::conversations::{Random, text};
use support::render;

/// So many templates are compared in one round.
const TEMPLATES: usize = 3_000;

/// One of those between semicolons.
fn pick(random: &mut Random, from: &str) -> String {
    let all: Vec<&str> = from.split("; ").collect();
    all[random.below(all.len())].to_owned()
}

/// An expression that mostly is a text.
fn string(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return pick(
            random,
            "'a'; \"it's\\n\"; ''; ' x  y '; '%s-%s'; 'ü 名前'; m.role; m['content']; words[0]; text; '</think>'; \
         dict.get('k', 'd'); 'a,b,,c'; things[0].name; missing",
        );
    }
    let depth = depth - 1;
    match random.below(9) {
        0 | 1 => format!("{} ~ {}", operand(random, depth), operand(random, depth)),
        2 => format!("({} + {})", string(random, depth), string(random, depth)),
        3 => {
            let filter = pick(
                random,
                "trim; upper; lower; title; capitalize; string; replace('a', 'bb'); replace('', '-'); tojson; \
         indent; indent(2, true); indent(3, blank=true); center(9); truncate(5); truncate(7, true, '~'); \
         urlencode; default('d'); default('d', true); first; last; trim('a '); format(1, 'x')",
            );
            format!("({}) | {filter}", operand(random, depth))
        }
        4 | 5 => {
            let method = pick(
                random,
                "strip(); lstrip('a '); rstrip(); upper(); title(); capitalize(); swapcase(); \
         replace('a', 'b', 1); split(',')[-1]; split()[0]; rsplit(None, 1) | join('+'); \
         split('x', 1) | list | string; partition(' ') | string; rpartition('a')[2]; removeprefix('a'); \
         removesuffix('c'); splitlines() | join('|'); center(8, '*'); ljust(6) ~ '|'; rjust(6, '0'); \
         zfill(5); expandtabs(4); format(1, 'x'); join(words); lower()",
            );
            format!("({}).{method}", string(random, depth))
        }
        6 => format!(
            "({} if {} else {})",
            string(random, depth),
            condition(random, depth),
            string(random, depth)
        ),
        7 => format!(
            "({}){}",
            string(random, depth),
            pick(random, "[0]; [-1]; [1:]; [:3]; [::-1]; [1::2]; [-3:-1]; [5:1:-2]")
        ),
        _ => format!("'<%s|%5s>' % ({}, {})", operand(random, depth), number(random, depth)),
    }
}

/// An expression that mostly is a number.
fn number(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return pick(
            random,
            "0; 3; -2; 1.5; 1e16; 0.00001; n; words | length; loop.index0; 2.5; f; 10",
        );
    }
    let depth = depth - 1;
    match random.below(6) {
        0 | 1 => {
            let operator = pick(random, "+; -; *; /; //; %");
            format!("({} {operator} {})", number(random, depth), number(random, depth))
        }
        2 => {
            let filter = pick(
                random,
                "abs; round; round(1); int; float; round(0, 'ceil') | int; round(1, 'floor')",
            );
            format!("({}) | {filter}", number(random, depth))
        }
        3 => format!(
            "({}) | {}",
            string(random, depth),
            pick(random, "int; float(1.5); int(7); wordcount; length")
        ),
        4 => format!(
            "({}) | {}",
            list(random, depth),
            pick(random, "length; sum; max; min; count")
        ),
        _ => format!(
            "({}).{}",
            string(random, depth),
            pick(random, "count('a'); find('b'); rfind('a', 1)")
        ),
    }
}

fn list(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return pick(
            random,
            "words; [3, 1, 2]; []; things; dict | list; range(4) | list; [1, 'a', none, 0.5]; messages",
        );
    }
    let depth = depth - 1;
    match random.below(6) {
        0 => format!("[{}, {}]", operand(random, depth), operand(random, depth)),
        1 => format!("(({}) + ({}))", list(random, depth), list(random, depth)),
        2 => format!(
            "({}){}",
            list(random, depth),
            pick(random, "[1:]; [:-1]; [::-1]; [::2]; [-2:]")
        ),
        3 | 4 => {
            let filter = pick(
                random,
                "sort; sort(reverse=true); unique | list; reverse | list; map('string') | list; \
         map('upper') | list; select('string') | list; reject('none') | list; \
         map(attribute='name') | list; selectattr('name', 'defined') | list; batch(2) | list; \
         slice(2) | list; map('tojson') | list; sort(attribute='name'); \
         groupby('name') | map('first') | list; select('number') | list; \
         map(attribute='role', default='-') | list; rejectattr('name') | list; batch(3, 'x') | list",
            );
            format!("({}) | {filter}", list(random, depth))
        }
        _ => format!("({}).split('a')", string(random, depth)),
    }
}

fn condition(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return pick(
            random,
            "yes; not yes; missing; words; m.role == 'user'; loop.last; missing is defined; n > 3",
        );
    }
    let depth = depth - 1;
    match random.below(6) {
        0 => {
            let operator = pick(random, "==; !=; in; not in");
            format!("({} {operator} {})", operand(random, depth), list(random, depth))
        }
        1 => format!(
            "({} {} {})",
            number(random, depth),
            pick(random, "<; >=; =="),
            number(random, depth)
        ),
        2 => format!(
            "({} {} {})",
            condition(random, depth),
            pick(random, "and; or"),
            condition(random, depth)
        ),
        3 => format!(
            "({}).{}",
            string(random, depth),
            pick(
                random,
                "startswith('a'); endswith(('c', '\\n')); isdigit(); isalpha(); islower(); istitle()"
            )
        ),
        _ => {
            let test = pick(
                random,
                "string; number; sequence; mapping; iterable; none; defined; undefined; boolean; true; integer; \
         float; lower; upper; in words; eq 'a'; not none; not string; callable",
            );
            format!("(({}) is {test})", operand(random, depth))
        }
    }
}

fn operand(random: &mut Random, depth: usize) -> String {
    match random.below(8) {
        0 | 1 => number(random, depth),
        2 => list(random, depth),
        3 => condition(random, depth),
        4 => pick(random, "none; true; dict; m; (1, 'a'); f; {'a': [1e16]}"),
        _ => string(random, depth),
    }
}

fn statement(random: &mut Random, depth: usize) -> String {
    let print = |random: &mut Random| format!("{{{{ {} }}}}", operand(random, 2));
    if depth == 0 {
        return print(random);
    }
    let depth = depth - 1;
    let body = |random: &mut Random| format!("{}{}", statement(random, depth), random.pick(&["", "\n", " ", "x\n  "]));
    match random.below(9) {
        0 => format!(
            "{{% if {} %}}{}{{%- else %}}\n{}{{% endif %}}",
            condition(random, 2),
            body(random),
            body(random)
        ),
        1 => format!(
            "{{% for x in {} %}}{}{{{{ loop.index ~ x }}}}{{% endfor %}}",
            list(random, 1),
            body(random)
        ),
        2 => format!(
            "{{%- for message in messages -%}}{}{}{{%- endfor -%}}",
            print(random),
            body(random)
        ),
        3 => format!(
            "{{% set v = {} %}}{}{{{{ v ~ '!' }}}}",
            operand(random, 2),
            body(random)
        ),
        4 => format!("{{% set v %}}{}{{% endset %}}{{{{ v | trim }}}}", body(random)),
        5 => format!(
            "{{% macro show(a, b={}) %}}{}{{{{ a ~ b }}}}{{% endmacro %}}{{{{ show({}) }}}}",
            operand(random, 1),
            body(random),
            operand(random, 1)
        ),
        6 => format!(
            "{{% filter {} %}}{}{{% endfilter %}}",
            pick(random, "upper; trim; indent(2); replace('a', 'o')"),
            body(random)
        ),
        7 => format!(
            "{{% for k, v in dict.items() %}}{{{{ k ~ v }}}}{}{{% endfor %}}",
            body(random)
        ),
        _ => print(random),
    }
}

fn variables(random: &mut Random) -> Value {
    let message = |random: &mut Random, role: &str| json!({"role": role, "content": text(random)});
    json!({
        "messages": [message(random, "system"), message(random, "user"), message(random, "assistant")],
        "m": message(random, "user"),
        "text": text(random), "words": ["b", "A", text(random)], "n": random.below(9), "f": 2.5e-7, "yes": true,
        "dict": {"k": text(random), "b": [1, null], "Ü": 0.1},
        "things": [{"name": "b"}, {"name": "a", "n": 1e16}],
    })
}

#[test]
fn templates_from_a_seed_equal_pythons() {
    let rounds = std::env::var("WARMPATH_JINJA_FUZZ").map_or(1, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let mut random = Random(round);
        let cases: Vec<Value> = (0..TEMPLATES)
            .map(|_| {
                let source = (0..2).map(|_| statement(&mut random, 2)).collect::<String>();
                json!({"source": source, "variables": variables(&mut random)})
            })
            .collect();
        let expected = support::python(&json!({"now": support::NOW, "cases": cases}));
        let (mut equal, mut errors, mut refused, mut differences) = (0, 0, 0, Vec::new());
        for (case, theirs) in cases.iter().zip(&expected) {
            let source = case["source"].as_str().unwrap();
            match (render(source, &case["variables"]), theirs["text"].as_str()) {
                (Ok(ours), Some(theirs)) if ours == theirs => equal += 1,
                (Ok(_), Some(theirs)) if theirs.contains(" at 0x") => {}
                (Ok(ours), Some(theirs)) => {
                    differences.push(format!("{source}\n  ours:   {ours:?}\n  theirs: {theirs:?}"))
                }
                (Err(error), Some(_)) => {
                    errors += 1;
                    if errors <= 60 {
                        println!("{source}\n  {error}");
                    }
                }
                (_, None) => refused += 1,
            }
        }
        println!("round {round}: {equal} equal, {errors} errors here only, {refused} refused by Python");
        assert!(
            differences.is_empty(),
            "{} differences\n{}",
            differences.len(),
            differences.join("\n")
        );
        assert!(equal > TEMPLATES / 4 && errors < TEMPLATES / 50);
    }
}
