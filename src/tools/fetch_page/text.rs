//! What of a page a model is shown: its title and its text.
//!
//! How large a page may be is for [`tree`](super::tree) to say.

use html2text::config;

use super::tree;

/// Columns of the text.
const WIDTH: usize = 120;
/// Characters of a title.
const TITLE_CHARS_MAX: usize = 300;

/// A page as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Its title, if it has one.
    pub title: Option<String>,
    /// Its text, with links as numbered notes.
    pub text: String,
}

/// The text of an HTML page; none if it is larger than any page that is read, or cannot be rendered.
#[must_use]
pub fn of_html(html: &str) -> Option<Page> {
    let config = config::plain_no_decorate().link_footnotes(true);
    let tree = config.dom_to_render_tree(&tree::parse(html)?).ok()?;
    let text = config.render_to_string(tree, WIDTH).ok()?;
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
    fn pages_that_would_take_minutes_to_parse_are_refused_within_seconds() {
        let begun = std::time::Instant::now();
        let deep = [
            "<div>",
            "<div></x>",
            "<div/>",
            "<b>",
            "<table><tr><td>",
            "<div a='>'>",
            "<DIV a==\">",
            // Tags that close nothing: in a comment, in an attribute, in a script, across a table, in a select.
            "<div><!--</div>-->",
            "<div a='</div>'>",
            "<div><script></div></script>",
            "<div><table></div></table>",
            "<div><select></div></select>",
        ];
        for tag in deep {
            assert_eq!(of_html(&tag.repeat(100_000)), None, "{tag}");
        }
        for (before, attribute) in [("", "a%=x"), ("<!--<x a='-->", "a%")] {
            let tag: String = (0..100_000).map(|n| format!(" {}", attribute.replace('%', &n.to_string()))).collect();
            assert_eq!(of_html(&format!("{before}<div{tag}>")), None, "{before}{attribute}");
        }
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    }

    #[test]
    fn pages_whose_tree_is_a_thousand_times_their_size_are_refused() {
        for (times, tag) in
            [(4_000, "<b id=%>"), (450, "<a id=%><i id=%>"), (900, "<font a=% b c d e f g h i j k l m>")]
        {
            let left_open: String = (0..times).map(|n| tag.replace('%', &n.to_string())).collect();
            let page = format!("<p>{left_open}</p>{}", "<p>x".repeat(100_000));
            assert_eq!(of_html(&page), None, "{times} {tag}");
        }
    }

    #[test]
    fn long_pages_of_ordinary_tags_are_not_refused() {
        let row = "<p>text<br><img src='data:image/png;base64,AAAA BBBB'><li>item<div class='a b c'><span>x</span></div></li>";
        assert!(of_html(&row.repeat(10_000)).is_some());
        let inline = format!("<svg><path d=\"{}\"></path></svg>text", "M 1 2 ".repeat(50_000));
        assert!(of_html(&inline).is_some());
    }
}
