//! What of a page a model is shown: its title and its text.
//!
//! The HTML parser takes time in the square of the depth of elements (100,000 nested ones: 42 s) and of the attributes of
//! one tag, so pages that nobody wrote for people are told from others before it sees them.

use std::collections::BTreeMap;

use html2text::config;

/// Elements within each other, closing tags that are left out counted as missing.
const DEPTH_MAX: usize = 5_000;
/// Attributes of one tag.
const ATTRIBUTES_MAX: usize = 1_000;
/// Columns of the text.
const WIDTH: usize = 120;
/// Characters of a title.
const TITLE_CHARS_MAX: usize = 300;

/// Elements that have no content.
const VOID: [&str; 14] =
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"];
/// Elements whose closing tag may be left out: the next of their kind ends them.
const IMPLIED: [&str; 8] = ["p", "li", "dt", "dd", "tr", "td", "th", "option"];

/// A page as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Its title, if it has one.
    pub title: Option<String>,
    /// Its text, with links as numbered notes.
    pub text: String,
}

/// The text of an HTML page; none if it is nested or tagged beyond reason, or cannot be rendered.
#[must_use]
pub fn of_html(html: &str) -> Option<Page> {
    if !reasonable(html.as_bytes()) {
        return None;
    }
    let text = config::plain_no_decorate().link_footnotes(true).string_from_read(html.as_bytes(), WIDTH).ok()?;
    Some(Page { title: title(html), text: text.trim().to_owned() })
}

/// The text of `<title>`, its references resolved by the same library.
fn title(html: &str) -> Option<String> {
    let lower = html.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = start + lower[start..].find("</title")?;
    let raw: String = html[start..end].chars().take(TITLE_CHARS_MAX).collect();
    let text =
        config::plain_no_decorate().string_from_read(raw.replace('<', "&lt;").as_bytes(), TITLE_CHARS_MAX).ok()?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// Whether a page is written as pages are. Sees at least as much depth and as many attributes as a parser does.
fn reasonable(html: &[u8]) -> bool {
    let mut open: BTreeMap<String, usize> = BTreeMap::new();
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(found) = html[at..].iter().position(|byte| *byte == b'<') {
        at += found + 1;
        let closing = html.get(at) == Some(&b'/');
        let name_at = at + usize::from(closing);
        if !html.get(name_at).is_some_and(u8::is_ascii_alphabetic) {
            continue;
        }
        let length =
            html[name_at..].iter().take_while(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 12 | b'/' | b'>'));
        let end = name_at + length.count();
        let name = String::from_utf8_lossy(&html[name_at..end.min(name_at + 32)]).to_ascii_lowercase();
        let (attributes, past) = attributes(html, end);
        if attributes > ATTRIBUTES_MAX {
            return false;
        }
        at = past;
        if VOID.contains(&&*name) || IMPLIED.contains(&&*name) {
            continue;
        }
        let count = open.entry(name).or_default();
        if !closing {
            *count += 1;
            depth += 1;
        } else if *count > 0 {
            *count -= 1;
            depth -= 1;
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    true
}

/// How many attributes a tag has whose name ends at `at`, and where it ends. States as in the HTML standard's tokenizer.
fn attributes(html: &[u8], mut at: usize) -> (usize, usize) {
    #[derive(PartialEq)]
    enum In {
        Between,
        Name,
        BeforeValue,
        Value,
        Quoted(u8),
    }
    let (mut count, mut state) = (0, In::Between);
    while let Some(byte) = html.get(at).copied() {
        at += 1;
        let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 12);
        state = match state {
            In::Quoted(quote) if byte == quote => In::Between,
            In::Quoted(quote) => In::Quoted(quote),
            _ if byte == b'>' => return (count, at),
            In::BeforeValue if space => In::BeforeValue,
            In::BeforeValue if matches!(byte, b'"' | b'\'') => In::Quoted(byte),
            In::BeforeValue => In::Value,
            In::Value if space => In::Between,
            In::Value => In::Value,
            In::Name if byte == b'=' => In::BeforeValue,
            In::Name if !space && byte != b'/' => In::Name,
            In::Between | In::Name if space || byte == b'/' => In::Between,
            In::Between | In::Name => {
                count += 1;
                In::Name
            }
        };
    }
    (count, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_title_and_its_text() {
        let html = "<html><head><title>Cats &amp; <dogs></title><style>p{}</style></head><body><script>no()</script>\
                    <h1>Head</h1><p>One <a href='https://a.example/x'>link</a>.</p></body></html>";
        let page = of_html(html).expect("a page");
        assert_eq!(page.title.as_deref(), Some("Cats & <dogs>"));
        assert!(page.text.contains("Head") && page.text.contains("https://a.example/x"), "{}", page.text);
        assert!(!page.text.contains("no()") && !page.text.contains("p{}"), "{}", page.text);
    }

    #[test]
    fn pages_that_would_take_minutes_to_parse_are_refused_at_once() {
        let begun = std::time::Instant::now();
        let deep = ["<div>", "<div></x>", "<div/>", "<b>", "<table><tr><td>", "<div a='>'>", "<DIV a==\">"];
        for tag in deep {
            assert_eq!(of_html(&tag.repeat(100_000)), None, "{tag}");
        }
        for attribute in ["a%", "a%=\"x\"", "a%=x/", "\"a% ", "a%==\""] {
            let tag: String = (0..100_000).map(|n| format!(" {}", attribute.replace('%', &n.to_string()))).collect();
            assert_eq!(of_html(&format!("<div{tag}>")), None, "{attribute}");
        }
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }

    #[test]
    fn long_pages_of_ordinary_tags_are_not_refused() {
        let row =
            "<p>text<br><img src='data:image/png;base64,AAAA BBBB'><li>item<div class='a b c'><span>x</span></div>";
        assert!(reasonable(row.repeat(10_000).as_bytes()));
        let inline = format!("<svg><path d=\"{}\"></path></svg>", "M 1 2 ".repeat(50_000));
        assert!(reasonable(inline.as_bytes()));
    }
}
