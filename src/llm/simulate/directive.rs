//! Reads `[[sim:...]]` out of a message. What is no directive stays text.

use std::time::Duration;

use serde_json::Value;

use super::SimulatedFault;

const OPEN: &str = "[[sim:";
const CLOSE: &str = "]]";

/// What a message asks of the simulated model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Directives {
    pub(super) fault: Option<SimulatedFault>,
    /// The fault strikes so many attempts; `None` is all of them.
    pub(super) times: Option<u32>,
    pub(super) tools: Vec<(String, Option<Value>)>,
    pub(super) tokens: Option<u32>,
    pub(super) latency: Option<Duration>,
    pub(super) say: Option<String>,
    /// The message without its directives.
    pub(super) rest: String,
}

/// The longest answer that a directive may ask for.
const TOKENS_MAX: u32 = 100_000;

impl Directives {
    pub(super) fn read(text: &str) -> Self {
        let mut found = Self::default();
        let mut rest = text;
        while let Some(start) = rest.find(OPEN) {
            found.rest.push_str(&rest[..start]);
            let body = &rest[start + OPEN.len()..];
            match found.take(body) {
                Some(after) => rest = after,
                None => {
                    found.rest.push_str(OPEN);
                    rest = body;
                }
            }
        }
        found.rest.push_str(rest);
        if found.rest.len() < text.len() {
            found.rest = found.rest.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        found
    }

    /// Takes the directive that `body` begins with; gives what follows it, or nothing if it is none.
    fn take<'a>(&mut self, body: &'a str) -> Option<&'a str> {
        if let Some(tool) = body.strip_prefix("tool ") {
            return self.take_tool(tool);
        }
        let (inside, after) = body.split_once(CLOSE)?;
        if let Some(say) = inside.strip_prefix("say=") {
            self.say = Some(say.to_owned());
            return Some(after);
        }
        let mut words = inside.split_whitespace();
        let (name, value) = key_value(words.next()?);
        let options: Vec<_> = words.map(key_value).collect();
        let option = |name: &str| options.iter().find(|(key, _)| *key == name).and_then(|(_, v)| v.parse::<u32>().ok());
        let fault = match name {
            "429" => SimulatedFault::RateLimited { retry_after: option("retry_after") },
            "500" => SimulatedFault::ServerError,
            "hang" => SimulatedFault::Hang,
            "cut" => SimulatedFault::Cut { after: option("after").unwrap_or(1) },
            "garbage" => SimulatedFault::Garbage,
            "drip" => SimulatedFault::Drip { gap: Duration::from_millis(option("ms").unwrap_or(200).into()) },
            "tokens" => {
                self.tokens = Some(value.parse::<u32>().ok()?.min(TOKENS_MAX));
                return Some(after);
            }
            "latency" => {
                self.latency = Some(Duration::from_millis(value.parse::<u32>().ok()?.into()));
                return Some(after);
            }
            _ => return None,
        };
        self.fault = Some(fault);
        self.times = option("times");
        Some(after)
    }

    /// `name=... args={...}]]`: the arguments are read as JSON, so they may hold `]]` themselves.
    fn take_tool<'a>(&mut self, body: &'a str) -> Option<&'a str> {
        let body = body.trim_start().strip_prefix("name=")?;
        let end = body.find(|c: char| c.is_whitespace() || c == ']')?;
        let (name, mut rest) = (&body[..end], body[end..].trim_start());
        let mut arguments = None;
        if let Some(json) = rest.strip_prefix("args=") {
            let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
            arguments = Some(values.next()?.ok()?);
            rest = json[values.byte_offset()..].trim_start();
        }
        let after = rest.strip_prefix(CLOSE)?;
        self.tools.push((name.to_owned(), arguments));
        Some(after)
    }
}

fn key_value(word: &str) -> (&str, &str) {
    word.split_once('=').unwrap_or((word, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_directive_is_read_and_left_out_of_the_text() {
        let read = Directives::read(
            "Hi [[sim:429 retry_after=7 times=2]] there [[sim:tokens=20]][[sim:latency=50]] \
             [[sim:tool name=find args={\"q\": [[1]]}]] [[sim:tool name=plain]][[sim:say=exact  text]] !",
        );
        assert_eq!(read.fault, Some(SimulatedFault::RateLimited { retry_after: Some(7) }));
        assert_eq!((read.times, read.tokens, read.latency), (Some(2), Some(20), Some(Duration::from_millis(50))));
        assert_eq!(read.tools, [("find".to_owned(), Some(json!({"q": [[1]]}))), ("plain".to_owned(), None)]);
        assert_eq!(read.say.as_deref(), Some("exact  text"));
        assert_eq!(read.rest, "Hi there !");
        for (text, fault) in [
            ("[[sim:500]]", SimulatedFault::ServerError),
            ("[[sim:hang]]", SimulatedFault::Hang),
            ("[[sim:cut after=5]]", SimulatedFault::Cut { after: 5 }),
            ("[[sim:garbage]]", SimulatedFault::Garbage),
            ("[[sim:drip ms=20]]", SimulatedFault::Drip { gap: Duration::from_millis(20) }),
        ] {
            assert_eq!(Directives::read(text).fault, Some(fault), "{text}");
        }
    }

    #[test]
    fn what_is_no_directive_stays_text() {
        for text in ["[[sim:", "[[sim:unknown]]", "[[sim:tokens=many]]", "[[sim:tool name=x args={]]", "a [[b]] c"] {
            assert_eq!(Directives::read(text), Directives { rest: text.to_owned(), ..Directives::default() });
        }
    }
}
