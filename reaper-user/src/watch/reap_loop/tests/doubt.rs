//! What the sweep makes of a process table that it has reasons to doubt.

use super::*;

/// A hundred processes, none of which has the number of this test's own process.
fn hundred() -> impl Iterator<Item = u32> {
    (1..)
        .filter(|number| *number != std::process::id())
        .take(100)
}

/// All of them known by number alone, and this process, before the sweep begins.
fn scene_of_a_hundred() -> Scene {
    let scene = Scene::new(0);
    scene.table.refuse(Refusals {
        pidfd_open: Some(Errno::NOSYS),
        ..Refusals::default()
    });
    scene.table.spawn(pid(std::process::id()), 100);
    let scene = scene.with_sweep();
    for number in hundred() {
        scene.watch(number, 100);
    }
    scene
}

#[tokio::test(start_paused = true)]
async fn a_table_that_lies_about_everybody_removes_nobody() {
    let scene = scene_of_a_hundred();
    scene.pass(INTERVAL).await;
    // As after a switch of time namespaces: every start time reads otherwise, our own too.
    for number in hundred().chain([std::process::id()]) {
        scene.table.spawn(pid(number), 777);
    }
    scene.pass(INTERVAL * 2).await;
    assert_eq!(scene.deaths(), []);
    assert_eq!(
        scene.board.get(Source::Sweep).health,
        Some(SourceHealth::Degraded)
    );
}

/// Each sweep held all of them back, for ever.
#[tokio::test(start_paused = true)]
async fn a_wave_of_reuse_is_believed_of_a_table_that_shows_us_as_ever() {
    let scene = scene_of_a_hundred();
    scene.pass(INTERVAL).await;
    for number in hundred() {
        scene.table.spawn(pid(number), 777);
    }
    scene.pass(INTERVAL * 2).await;
    assert_eq!(scene.deaths().len(), 100);
    assert_eq!(
        scene.board.get(Source::Sweep).health,
        Some(SourceHealth::Up)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hidden_proc_keeps_everybody_and_says_so() {
    let scene = Scene::new(0).with_sweep();
    scene.table.refuse(Refusals {
        pidfd_open: Some(Errno::NOSYS),
        ..Refusals::default()
    });
    for number in 1..=5 {
        scene.watch(number, 100);
    }
    scene.table.refuse(Refusals {
        pidfd_open: Some(Errno::NOSYS),
        look: Some(Errno::NOENT),
        ..Refusals::default()
    });
    scene.pass(INTERVAL * 2).await;
    assert_eq!(scene.deaths(), []);
    assert_eq!(
        scene.board.get(Source::Sweep).health,
        Some(SourceHealth::Degraded)
    );
    scene.table.die(pid(3), 0);
    scene.table.reap(pid(3));
    scene.pass(INTERVAL).await;
    assert_eq!(scene.deaths().len(), 1);
}
