//! What grows, and what must not.

use std::time::{Duration, Instant};

use fleet_actors::ids::{Position, Timestamp};
use fleet_actors::ports::{MessageRow, PageFrom, Role, Store, StoreWrite, Written};
use fleet_actors::testing::store_contract::Harness;

use crate::support::{DATABASE, OnDisk, block_on, make, without_syncs};

async fn fill(store: &dyn Store, entries: std::ops::Range<u32>) {
    let names: Vec<_> = entries.map(|n| format!("{n:08}")).collect();
    for batch in names.chunks(500) {
        store
            .commit(batch.iter().map(|name| make::ended(make::first(name, 1)).into()).collect())
            .await
            .expect("written");
    }
}

/// The quickest of many, so that a busy machine does not count.
async fn quickest<T>(mut ask: impl AsyncFnMut() -> T) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let began = Instant::now();
        ask().await;
        best = best.min(began.elapsed());
    }
    best
}

#[test]
fn a_page_of_history_costs_the_same_at_a_hundred_and_at_a_hundred_thousand_entries() {
    let mut disk = OnDisk::new(without_syncs);
    let mut costs = Vec::new();
    let (few, many) = (100, 100_000);
    for (from, to) in [(0, few), (few, many)] {
        let store = disk.store();
        block_on(async {
            fill(&*store, from..to).await;
            assert_eq!(store.history_count().await, Ok(u64::from(to)));
            for offset in [0, u64::from(to) / 2, u64::from(to) - 20] {
                let cost = quickest(async || store.history(PageFrom::Offset(offset), 20).await).await;
                let page = store.history(PageFrom::Offset(offset), 20).await.expect("a page");
                assert_eq!(page[0].workflow_id.as_str(), format!("{:08}", u64::from(to) - 1 - offset));
                costs.push((to, format!("offset {offset}"), cost));
            }
            let middle = make::id(&format!("{:08}", to / 2));
            let cost = quickest(async || store.history(PageFrom::Before(middle.clone()), 20).await).await;
            costs.push((to, "before".into(), cost));
            let cost = quickest(async || store.history_entry(&middle).await).await;
            costs.push((to, "by id".into(), cost));
        });
    }
    println!("pages of 20: {costs:#?}");
    let (base, grown) = costs.split_at(costs.len() / 2);
    for ((_, _, base), (_, what, cost)) in base.iter().zip(grown) {
        assert!(*cost < *base * 5 + Duration::from_micros(200), "{what}: {cost:?} beside {base:?}");
    }
    disk.close();
    let began = Instant::now();
    disk.open();
    println!("open with {many} entries: {:?}", began.elapsed());
}

#[test]
fn the_log_stays_small_under_readers_that_overlap() {
    let disk = OnDisk::new(without_syncs);
    let store = disk.store();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut largest = 0;
    block_on(store.commit(vec![make::with_bodies(make::first("w", 200), 60_000).into()])).expect("written");
    std::thread::scope(|scope| {
        let mut reads = Vec::new();
        for _ in 0..3 {
            reads.push(scope.spawn(|| {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let page = block_on(store.read(&make::id("w"), Position(0), usize::MAX)).expect("a page");
                    assert!(!page.is_empty());
                    count += 1;
                }
                count
            }));
        }
        for n in 0..300 {
            block_on(store.commit(vec![make::with_bodies(make::more("w", 200 + n, 1), 1 << 20).into()]))
                .expect("written");
            largest = largest.max(disk.file("fleet.db-wal").metadata().expect("the log").len());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let counts: Vec<u32> = reads.into_iter().map(|read| read.join().expect("a reader")).collect();
        println!("300 MiB written, the log was at most {} MiB, reads {counts:?}", largest >> 20);
        assert!(counts.iter().sum::<u32>() > 10);
    });
    assert!(largest < 128 << 20, "{largest}");
}

#[test]
fn under_load_without_an_idle_moment_the_log_moves_beside_the_writer_and_begins_anew() {
    let disk = OnDisk::new(|options| {
        without_syncs(options);
        options.wal_pages_max = 100;
    });
    let store = disk.store();
    block_on(store.commit(vec![make::first("w", 1).into()])).expect("written");
    let (mut largest, mut written) = (0, 0);
    // A disk that is slow for the mover and not for the writer lets the log grow more before it begins anew.
    for n in 0..5_000 {
        block_on(store.commit(vec![make::with_bodies(make::more("w", 1 + n, 1), 40_000).into()])).expect("written");
        largest = largest.max(disk.file("fleet.db-wal").metadata().expect("the log").len());
        written += 40_000;
        if written >= (40 << 20).max(3 * largest) {
            break;
        }
    }
    println!("{} KiB written, the log was at most {} KiB", written >> 10, largest >> 10);
    assert!(written >= 3 * largest, "{written} bytes, and the log had {largest}");
}

#[test]
fn a_body_is_kept_once_however_often_it_is_recorded() {
    let mut disk = OnDisk::new(without_syncs);
    let store = disk.store();
    let same = |mut append: fleet_actors::ports::Append, shared| {
        for record in &mut append.records {
            record.body = Some(fleet_actors::ports::RecordBody { bytes: vec![b'z'; 100_000].into(), shared });
        }
        append
    };
    let mut appends = vec![same(make::first("once", 50), false)];
    appends.extend((0..50).map(|n| same(make::first(&format!("shared{n}"), 1), true)));
    block_on(store.commit(make::all(appends))).expect("written");
    drop(store);
    disk.close();
    let size = disk.file(DATABASE).metadata().expect("the file").len();
    assert!(size < 700_000, "two bodies of 100,000 bytes, recorded a hundred times, take {size}");
    disk.open();
    let db = rusqlite::Connection::open(disk.file(DATABASE)).expect("the file opens");
    let payloads = || -> (i64, i64) {
        let count = |sql| db.query_row(sql, [], |row| row.get(0)).expect(sql);
        (count("SELECT count(*) FROM payloads"), count("SELECT count(*) FROM shared_payloads"))
    };
    assert_eq!(payloads(), (1, 1));
    let delete = |name: &str| {
        let deleted = block_on(disk.store().write(StoreWrite::DeleteConversation(make::talk(name))));
        assert_eq!(deleted, Ok(Written::Done));
    };
    delete("c-once");
    (0..49).for_each(|n| delete(&format!("c-shared{n}")));
    assert_eq!(payloads(), (0, 1));
    delete("c-shared49");
    assert_eq!(payloads(), (0, 0));
}

#[test]
fn what_was_deleted_is_in_no_file_any_more() {
    let disk = OnDisk::new(|_| {});
    let store = disk.store();
    let secret = "the-deleted-words";
    let mut append = make::with_bodies(make::first("w", 3), 5_000);
    append.records[0].head = secret.as_bytes().to_vec();
    if let Some(body) = &mut append.records[1].body {
        std::sync::Arc::make_mut(&mut body.bytes)[1_000..1_000 + secret.len()].copy_from_slice(secret.as_bytes());
    }
    append.messages.push(MessageRow {
        id: "m".into(),
        conversation: make::talk("c-w"),
        role: Role::User,
        content: secret.repeat(300),
        created_at: Timestamp(1_000),
        author: None,
        agent_id: None,
        workflow: None,
        finish_reason: None,
        quality: None,
    });
    let found = || {
        let files = std::fs::read_dir(disk.dir.path()).expect("the directory").map(|file| file.expect("a file").path());
        let holds = |path: &std::path::PathBuf| {
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
        };
        files.filter(|path| !path.ends_with("reserve")).any(|path| holds(&path))
    };
    block_on(store.commit(make::all([append, make::first("stays", 1)]))).expect("written");
    assert!(found());
    let deleted = block_on(store.write(StoreWrite::DeleteConversation(make::talk("c-w"))));
    assert_eq!(deleted, Ok(Written::Done));
    let deadline = Instant::now() + Duration::from_secs(10);
    while found() {
        assert!(Instant::now() < deadline, "still there");
        std::thread::yield_now();
    }
}
