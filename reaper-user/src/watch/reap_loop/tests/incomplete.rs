//! Registrations that could not do all of their steps.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_process_that_could_not_be_read_at_first_is_completed_by_the_sweep() {
    let scene = Scene::new(10).with_sweep();
    scene.table.refuse(Refusals {
        pidfd_open: Some(Errno::NFILE),
        look: Some(Errno::NFILE),
        ..Refusals::default()
    });
    scene.table.set_now(100);
    let process = scene.watch(7, 100);
    assert_eq!(strength(&scene, process.0), Some("pid"));
    scene.table.refuse(Refusals::default());
    scene.pass(INTERVAL).await;
    assert_eq!(strength(&scene, process.0), Some("pidfd"));
}

/// The first registration of a process is refused after the second one has come to share its entry: the
/// second one's last look may have been before the sources were armed.
#[tokio::test(start_paused = true)]
async fn a_process_shared_with_a_refused_registration_is_looked_at_once_more() {
    let scene = Scene::new(10);
    scene.table.spawn(pid(7), 100);
    let refused = scene.watched.hold(pid(7)).unwrap();
    let second = scene.watched.hold(pid(7)).unwrap();
    second.look_again();
    scene.table.die(pid(7), 0);
    drop(refused);
    scene.pass(A_MOMENT).await;
    assert_eq!(scene.deaths().len(), 1, "the end was forgotten");
}
