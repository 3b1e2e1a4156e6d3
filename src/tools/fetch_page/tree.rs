//! A page as a tree of bounded size, parsed in bounded time.
//!
//! A parser takes time in the square of the depth of elements and of the attributes of one tag, and makes many nodes of few
//! bytes: each paragraph repeats the formatting that was left open in the one before, so that 120 KB become gigabytes. Only
//! the parser knows what it makes of a page, so it is looked at while it works, a piece of the page at a time.

use std::borrow::Cow;
use std::cell::Cell;
use std::time::Duration;

use html2text::RcDom;
use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::{StrTendril, TendrilSink as _};
use html5ever::tree_builder::TreeBuilderOpts;
use html5ever::{Attribute, ParseOpts, QualName, parse_document};
use rustix::time::{ClockId, clock_gettime};

/// Nodes and attributes of one page; a page of two megabytes that people read has a tenth to a half of that.
const SIZE_MAX: usize = 500_000;
/// Elements within each other; browsers stop at 512.
const DEPTH_MAX: usize = 1_000;
/// Processor time of one page; a page of two megabytes that people read takes a tenth of a second.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes between two looks at time and size.
const PIECE: usize = 256;

/// What a parser makes of `html`; none if that is larger, deeper or takes longer than any page that is read.
pub(super) fn parse(html: &str) -> Option<RcDom> {
    let tree_builder = TreeBuilderOpts { scripting_enabled: false, ..TreeBuilderOpts::default() };
    let mut parser = parse_document(Bounded::default(), ParseOpts { tree_builder, ..ParseOpts::default() });
    let (begun, mut rest) = (time(), html);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
        parser.process(StrTendril::from(piece));
        if parser.tokenizer.sink.sink.full() || time().saturating_sub(begun) > TIME_MAX {
            return None;
        }
        rest = after;
    }
    parser.finish()
}

/// Processor time of this thread: what other threads do is no reason to give a page up.
fn time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

type Handle = <RcDom as TreeSink>::Handle;

/// Counts what it is given. Once it is full it attaches nothing any more, so what the parser goes on making is freed when
/// the parser has done with it.
#[derive(Default)]
struct Bounded {
    dom: RcDom,
    size: Cell<usize>,
}

impl Bounded {
    fn count(&self, size: usize) {
        self.size.set(self.size.get().saturating_add(size));
    }

    fn full(&self) -> bool {
        self.size.get() > SIZE_MAX
    }

    /// Whether there is room below `parent`; counts what is put there.
    fn takes(&self, parent: &Handle, child: &NodeOrText<Handle>) -> bool {
        if self.full() {
            return false;
        }
        match child {
            NodeOrText::AppendText(_) => self.count(1),
            NodeOrText::AppendNode(_) => {
                let above = std::iter::successors(Some(parent.clone()), |node| node.get_parent());
                if above.take(DEPTH_MAX + 1).count() > DEPTH_MAX {
                    self.count(SIZE_MAX);
                }
            }
        }
        !self.full()
    }
}

impl TreeSink for Bounded {
    type Handle = Handle;
    type Output = Option<RcDom>;
    type ElemName<'a> = <RcDom as TreeSink>::ElemName<'a>;

    fn finish(self) -> Option<RcDom> {
        (!self.full()).then_some(self.dom)
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, flags: ElementFlags) -> Handle {
        self.count(1 + attributes.len());
        self.dom.create_element(name, attributes, flags)
    }

    fn create_comment(&self, text: StrTendril) -> Handle {
        self.count(1);
        self.dom.create_comment(text)
    }

    fn create_pi(&self, target: StrTendril, data: StrTendril) -> Handle {
        self.count(1);
        self.dom.create_pi(target, data)
    }

    fn append(&self, parent: &Handle, child: NodeOrText<Handle>) {
        if self.takes(parent, &child) {
            self.dom.append(parent, child);
        }
    }

    fn append_before_sibling(&self, sibling: &Handle, child: NodeOrText<Handle>) {
        if self.takes(sibling, &child) {
            self.dom.append_before_sibling(sibling, child);
        }
    }

    fn append_based_on_parent_node(&self, element: &Handle, before: &Handle, child: NodeOrText<Handle>) {
        if self.takes(element, &child) {
            self.dom.append_based_on_parent_node(element, before, child);
        }
    }

    fn add_attrs_if_missing(&self, target: &Handle, attributes: Vec<Attribute>) {
        self.count(attributes.len());
        if !self.full() {
            self.dom.add_attrs_if_missing(target, attributes);
        }
    }

    // Nobody reads them, and a page can have as many as it has bytes.
    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> Handle {
        self.dom.get_document()
    }

    fn elem_name<'a>(&'a self, target: &'a Handle) -> Self::ElemName<'a> {
        self.dom.elem_name(target)
    }

    fn append_doctype_to_document(&self, name: StrTendril, public: StrTendril, system: StrTendril) {
        self.dom.append_doctype_to_document(name, public, system);
    }

    fn get_template_contents(&self, target: &Handle) -> Handle {
        self.dom.get_template_contents(target)
    }

    fn same_node(&self, one: &Handle, other: &Handle) -> bool {
        self.dom.same_node(one, other)
    }

    fn set_quirks_mode(&self, mode: QuirksMode) {
        self.dom.set_quirks_mode(mode);
    }

    fn remove_from_parent(&self, target: &Handle) {
        self.dom.remove_from_parent(target);
    }

    fn reparent_children(&self, node: &Handle, parent: &Handle) {
        self.dom.reparent_children(node, parent);
    }

    fn is_mathml_annotation_xml_integration_point(&self, target: &Handle) -> bool {
        self.dom.is_mathml_annotation_xml_integration_point(target)
    }
}
