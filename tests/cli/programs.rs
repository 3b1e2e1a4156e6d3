//! Where code of strangers is run: what a process leaves of it.

use std::time::Duration;

use crate::process::{Place, until};

#[tokio::test]
async fn no_process_leaves_a_directory_of_programs_behind_in_the_temporary_one() {
    let mut place = Place::new();
    let temporary = place.dir.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let left = || std::fs::read_dir(&temporary).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    place.set("TMPDIR", temporary.to_str().unwrap());
    place.set("FLEET_TOOLS__PYTHON__ENABLED", "true");
    let data_dir = place.dir.path().join(".var");
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::create_dir(&data_dir).unwrap();
    std::fs::set_permissions(&data_dir, closed).unwrap();
    let serve = |place: &mut Place| {
        place.serve();
        until("a place for programs", || !left().is_empty() || data_dir.join("scratch").exists());
        !left().is_empty()
    };
    if !std::path::Path::new("/usr/bin/bwrap").is_file() || !serve(&mut place) {
        return println!("NOT RUN: programs run in the data directory here, or nowhere");
    }
    place.kill();
    assert_eq!(left().len(), 1, "what is killed cannot tidy up");
    let stale = place.dir.path().join("tmp/agentic-fleet-scratch-of-another");
    std::fs::create_dir(&stale).unwrap();
    let hour_ago = stale.metadata().unwrap().modified().unwrap() - Duration::from_secs(3_600);
    std::fs::File::open(&stale).unwrap().set_modified(hour_ago).unwrap();
    serve(&mut place);
    // The directory that the killed process left says nothing about how far this start has come.
    until("what nobody holds goes at the next start", || !stale.exists());
    place.server().signal("-TERM");
    until("the process ends with nothing left", || left().is_empty());
    // One that ends at once, perhaps before it knew whether programs can run.
    for _ in 0..3 {
        assert_eq!(place.local(&["run", "-m", "please"]).code, 0);
        assert_eq!(left(), [] as [std::path::PathBuf; 0]);
    }
}
