//! Conversations and their messages.

use super::Harness;
use super::make::*;
use crate::ids::Timestamp;
use crate::ports::{MessageRow, Store, StoreWrite, Written};

fn contents(messages: &[MessageRow]) -> Vec<&str> {
    messages.iter().map(|message| message.content.as_str()).collect()
}

/// A run of one message.
async fn says(store: &dyn Store, id: &str, conversation: &str, at: i64, content: &str) {
    let mut append = first(id, Some(conversation), 1);
    append.messages.push(message(&format!("m-{id}"), conversation, Some(id), at, content));
    done(store, append).await;
}

pub(super) async fn the_first_message_gives_the_title(harness: &mut dyn Harness) {
    let store = harness.store();
    assert_eq!(store.conversation(&talk("c")).await, Ok(None));
    says(&*store, "a", "c", 2_000, "\n  What is a permit?  \nAnd a lease?").await;
    says(&*store, "b", "c", 3_000, "Something else").await;
    let row = store.conversation(&talk("c")).await.expect("read").expect("there");
    assert_eq!(row.title, "What is a permit?");
    assert_eq!((row.created_at, row.updated_at), (Timestamp(1_000), Timestamp(3_000)));
    assert_eq!(row.last.map(|message| message.content).as_deref(), Some("Something else"));

    let create = |id: &str, title: Option<&str>| StoreWrite::CreateConversation {
        conversation: talk(id),
        title: title.map(str::to_owned),
        at: Timestamp(500),
    };
    assert_eq!(write(&*store, create("c", None)).await, Written::Conflict);
    assert_eq!(write(&*store, create("named", Some("Mine"))).await, Written::Done);
    assert_eq!(write(&*store, create("bare", None)).await, Written::Done);
    assert_eq!(store.conversation(&talk("bare")).await.expect("read").expect("there").title, "");
    says(&*store, "d", "named", 2_000, "hello").await;
    says(&*store, "e", "bare", 2_000, &"long ".repeat(100)).await;
    assert_eq!(store.conversation(&talk("named")).await.expect("read").expect("there").title, "Mine");
    let cut = store.conversation(&talk("bare")).await.expect("read").expect("there").title;
    assert!(cut.starts_with("long long") && cut.ends_with('…') && cut.chars().count() <= 81, "{cut}");
}

pub(super) async fn conversations_are_listed_by_their_last_change(harness: &mut dyn Harness) {
    let store = harness.store();
    for (id, conversation, at) in [("a", "x", 2_000), ("b", "y", 3_000), ("d", "z", 2_500), ("e", "x", 4_000)] {
        says(&*store, id, conversation, at, &format!("{id} in {conversation}")).await;
    }
    let list = async |limit, offset| {
        let rows = store.conversations(limit, offset).await.expect("conversations");
        rows.into_iter()
            .map(|row| (row.conversation.to_string(), row.last.expect("a message").content))
            .collect::<Vec<_>>()
    };
    let row = |id: &str, last: &str| (id.to_owned(), last.to_owned());
    assert_eq!(list(10, 0).await, [row("x", "e in x"), row("y", "b in y"), row("z", "d in z")]);
    assert_eq!(list(1, 1).await, [row("y", "b in y")]);
    assert!(list(10, 3).await.is_empty());
}

pub(super) async fn the_newest_messages_come_oldest_first(harness: &mut dyn Harness) {
    let store = harness.store();
    for n in 0..5 {
        // Their times say nothing: the order is that of the commits.
        says(&*store, &format!("w{n}"), "c", 9_000 - n, &format!("{n}")).await;
    }
    assert_eq!(contents(&store.messages(&talk("c"), 10, None).await.expect("read")), ["0", "1", "2", "3", "4"]);
    assert_eq!(contents(&store.messages(&talk("c"), 2, None).await.expect("read")), ["3", "4"]);
    let others = store.messages(&talk("c"), 2, Some(workflow("w4"))).await.expect("read");
    assert_eq!(contents(&others), ["2", "3"]);
    assert!(store.messages(&talk("nowhere"), 10, None).await.expect("read").is_empty());
    let whole = store.messages(&talk("c"), 1, None).await.expect("read");
    assert_eq!(whole, [message("m-w4", "c", Some("w4"), 8_996, "4")]);
}
