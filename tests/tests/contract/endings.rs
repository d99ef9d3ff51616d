//! How processes end.
#![expect(clippy::unwrap_used, reason = "steps of tests")]

use reaper_registry::ExitStatus;
use reaper_user::victims::Kind;

use crate::stage::{KILLED, Stage};

pub(crate) fn exit_code(stage: &Stage) {
    for code in [0, 7, 255] {
        let mut victim = Stage::victim(Kind::Exit { code });
        let watching = stage.watch(&victim);
        victim.cue().unwrap();
        let exit = stage.end_of(watching, ExitStatus::Code(code));
        assert_eq!(exit.pid, victim.pid());
    }
}

pub(crate) fn signal(stage: &Stage) {
    for (signal, number) in [
        (rustix::process::Signal::KILL, 9),
        (rustix::process::Signal::TERM, 15),
    ] {
        let victim = Stage::victim(Kind::Sleep);
        let watching = stage.watch(&victim);
        victim.signal(signal).unwrap();
        let status = ExitStatus::Signal {
            signal: number,
            core: false,
        };
        stage.end_of(watching, status);
    }
}

pub(crate) fn many_at_once(stage: &Stage) {
    let mut victims: Vec<_> = (0..200).map(|_| Stage::victim(Kind::Sleep)).collect();
    let bystander = Stage::victim(Kind::Sleep);
    let watched: Vec<_> = victims.iter().map(|victim| stage.watch(victim)).collect();
    let living = stage.watch(&bystander);
    for victim in &mut victims {
        victim.kill().unwrap();
    }
    for (victim, watching) in victims.iter().zip(watched) {
        assert_eq!(stage.end_of(watching, KILLED).pid, victim.pid());
    }
    stage.lives(&living, "it was beside two hundred that died");
}

pub(crate) fn zombie(stage: &Stage) {
    let mut victim = Stage::victim(Kind::Sleep);
    let watching = stage.watch(&victim);
    victim.kill().unwrap();
    stage.end_of(watching, KILLED);
    // It can still be reaped, so it was reported without that.
    assert_eq!(victim.wait().unwrap(), KILLED);
}
