//! The settings of the last reload, left with the monitor, so that the next worker has them: the files may have
//! been edited since, and may be wrong.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::MemfdFlags;

use super::Live;
use crate::daemon::carried::Kind;
use crate::daemon::config::layers::{Configuration, Setting};
use crate::daemon::monitor;

/// Between two names and values, of which none has it.
const END: char = '\0';

/// Leaves the settings that are in force with the monitor.
pub(super) fn keep(live: &Live) {
    let Some(running) = live.running() else {
        return;
    };
    match written(&running) {
        Ok(file) => {
            monitor::keep(Kind::Settings, file.as_fd());
        }
        Err(error) => {
            log::warn!("another worker would have the options of the start: {error}");
        }
    }
}

/// Puts the settings of the worker before this one in force.
pub(crate) fn restore(live: &Live, settings: OwnedFd) {
    let Some(mut running) = live.running() else {
        return;
    };
    if let Err(error) = read(&mut running, settings) {
        log::error!("the options are those of the start: {error}");
        return;
    }
    live.take_over(running);
    live.options().log.set_level();
}

fn written(running: &Configuration) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create(
        Kind::Settings.name(),
        MemfdFlags::CLOEXEC,
    )?);
    for Setting { spec, text, .. } in &running.settings {
        write!(file, "{}{END}{text}{END}", spec.name)?;
    }
    Ok(file.into())
}

fn read(running: &mut Configuration, settings: OwnedFd) -> io::Result<()> {
    let mut file = File::from(settings);
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let mut parts = text.split_terminator(END);
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        let setting = running.settings.iter_mut().find(|it| it.spec.name == name);
        if let Some(setting) = setting {
            value.clone_into(&mut setting.text);
        }
    }
    Ok(())
}
