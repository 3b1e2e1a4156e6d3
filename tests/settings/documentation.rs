//! The embedded files say what holds.

use std::collections::BTreeSet;

use agentic_fleet::settings::{DEFAULTS, Profile, Settings};

use crate::start;

/// Every key of the defaults with the comment that stands above it.
fn documented() -> Vec<(String, String)> {
    let (mut keys, mut comment, mut above) = (Vec::new(), String::new(), Vec::<(usize, String)>::new());
    for line in DEFAULTS.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(words) = text.strip_prefix('#') {
            comment.push_str(words);
        } else if let Some((key, _)) = text.split_once(':').filter(|(key, _)| !key.contains(['[', ' '])) {
            above.retain(|(depth, _)| *depth < indent);
            above.push((indent, key.trim_matches('"').to_owned()));
            let path: Vec<&str> = above.iter().map(|(_, key)| key.as_str()).collect();
            keys.push((path.join("."), std::mem::take(&mut comment)));
        } else {
            comment.clear();
        }
    }
    keys
}

#[test]
fn every_key_is_in_the_defaults_and_documented_there() {
    let documented = documented();
    let free = ["ui_routing.", "llm.models."];
    // What an agent may say is documented where the first one stands.
    let repeats = |key: &str| key.starts_with("agents.") && !key.starts_with("agents.assistant");
    let own = |key: &str| !repeats(key) && !free.iter().any(|free| key.starts_with(free));
    for (key, comment) in documented.iter().filter(|(key, _)| own(key)) {
        assert!(comment.trim().len() > 8, "{key} has no comment");
    }

    let mut typed = BTreeSet::new();
    collect("", &serde_json::to_value(start().settings()).expect("JSON"), &mut typed);
    let written: BTreeSet<String> = start().report().into_keys().map(|key| key.replace('"', "")).collect();
    // Icons, the lowest effort, prices and a form of a model's own may be left out where there is none.
    let free = [".icon_hint", ".minimal_effort", ".price", "*.structured_output"];
    let left_out = |key: &&String| !free.iter().any(|free| key.ends_with(free));
    let missing: Vec<_> = typed.difference(&written).filter(left_out).collect();
    assert!(missing.is_empty(), "not in workflow_config.yaml: {missing:?}");
}

fn collect(at: &str, value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(entries) => entries.iter().for_each(|(key, value)| {
            collect(&if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, value, found);
        }),
        None => drop(found.insert(at.to_owned())),
    }
}

#[test]
fn the_bounds_in_the_comments_are_the_bounds_that_hold() {
    let mut checked = 0;
    for (key, comment) in documented() {
        let Some((min, max)) = comment
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .and_then(|(bounds, _)| bounds.split_once(", "))
            .and_then(|(min, max)| Some((min.parse::<u64>().ok()?, max.parse::<u64>().ok()?)))
        else {
            continue;
        };
        checked += 1;
        let name = format!("FLEET_{}", key.to_ascii_uppercase().replace('.', "__"));
        let refused = |value: String| {
            let loaded = Settings::load(&start().env(&name, &value).sources);
            loaded.err().is_some_and(|error| error.to_string().contains(&format!("from {min} to {max}")))
        };
        assert!(refused((max + 1).to_string()), "{key} allows more than {max}");
        assert!(refused((i128::from(min) - 1).to_string()), "{key} allows less than {min}");
        assert!(!refused(max.to_string()) && !refused(min.to_string()), "{key} refuses its own bounds");
    }
    assert!(checked > 60, "only {checked} bounds were found");
}

#[test]
fn overlays_are_short() {
    for profile in [Profile::Local, Profile::Production, Profile::Test] {
        assert!(profile.overlay().lines().count() <= 20, "{}", profile.as_str());
    }
    assert_eq!(start().profile("test").settings().server.port.as_u16(), 0);
}
