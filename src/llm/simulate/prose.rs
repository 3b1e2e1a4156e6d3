//! Sentences of the simulated model, cut into pieces. A piece is a word with the space behind it, and counts as a token.

use fleet_actors::ports::Role;

use super::SimulatedRequest;

/// The part of a text that is quoted back, in characters.
const QUOTED: usize = 160;

const REMARKS: [&str; 8] = [
    "A real model would now weigh what you need against what it knows.",
    "The text reaches you in the same pieces, at about the same pace, as a provider's would.",
    "Every piece of it went through the journal that makes this run durable.",
    "Stop the server in the middle, start it again, and the run goes on where it was.",
    "Set a key or a base URL to put a real model in my place.",
    "What I say depends only on what I was sent, so asking again gives the same answer.",
    "Nothing of this left your machine.",
    "The shape of the answer is right even where its content is not.",
];

const THOUGHTS: [&str; 6] = [
    "First, what is being asked for, and in what form?",
    "The earlier messages set the tone, so I keep to it.",
    "There is more than one way to answer; the shorter one serves better here.",
    "I should check whether a tool would help before I write.",
    "If something is unclear, saying so beats guessing.",
    "Now I can put the answer together.",
];

/// `text` cut into words.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split_inclusive(char::is_whitespace).map(str::to_owned).collect()
}

/// `text` cut every few characters, as JSON is by a tokenizer.
pub(super) fn chunks(text: &str) -> Vec<String> {
    let mut rest = text;
    let next = || {
        let end = rest.char_indices().nth(5).map_or(rest.len(), |(at, _)| at);
        let (chunk, left) = rest.split_at(end);
        rest = left;
        (!chunk.is_empty()).then(|| chunk.to_owned())
    };
    std::iter::from_fn(next).collect()
}

/// What there is to say about the request, in exactly `length` words if that is given.
pub(super) fn answer(
    request: &SimulatedRequest<'_>,
    asked: &str,
    length: Option<u32>,
    rng: &mut fastrand::Rng,
) -> Vec<String> {
    let spoken: Vec<Role> =
        request.messages.iter().map(|(role, _)| *role).filter(|role| *role != Role::System).collect();
    let earlier = spoken.iter().rposition(|role| *role == Role::User).unwrap_or(0);
    let mut text = format!("I am the simulated model, so take this as practice. You wrote: “{}”. ", quote(asked));
    text.push_str(&match earlier {
        0 => "It is the first message of our conversation. ".to_owned(),
        1 => "I have read the 1 message before it. ".to_owned(),
        n => format!("I have read the {n} messages before it. "),
    });
    for (_, result) in request.messages.iter().rev().take_while(|(role, _)| *role == Role::Tool) {
        text.push_str(&format!("The tool answered: “{}”. ", quote(result)));
    }
    let remark = rng.usize(..REMARKS.len());
    text.push_str(REMARKS[remark]);
    text.push(' ');
    text.push_str(REMARKS[(remark + 1 + rng.usize(..REMARKS.len() - 1)) % REMARKS.len()]);
    let mut words = words(&text);
    let Some(length) = length.map(|length| length as usize) else { return words };
    while words.len() < length {
        if let Some(last) = words.last_mut().filter(|last| !last.ends_with(char::is_whitespace)) {
            last.push(' ');
        }
        words.extend(self::words(REMARKS[rng.usize(..REMARKS.len())]));
    }
    words.truncate(length);
    words
}

/// `sentences` of reasoning.
pub(super) fn thoughts(asked: &str, sentences: usize, rng: &mut fastrand::Rng) -> Vec<String> {
    let mut text = format!("The user wants: “{}”.", quote(asked));
    let start = rng.usize(..THOUGHTS.len());
    for n in 0..sentences {
        text.push(' ');
        text.push_str(THOUGHTS[(start + n) % THOUGHTS.len()]);
    }
    words(&text)
}

/// The beginning of what was written. An agent of a team is shown the user's words behind other things.
fn quote(text: &str) -> String {
    let text = text.split_once("The user's task:\n").map_or(text, |(_, task)| task).trim();
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
