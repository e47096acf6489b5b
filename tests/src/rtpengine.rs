//! A real media relay, as session border controllers have one: rtpengine, without its kernel module, in the public network of a lab.

use crate::lab::{Lab, PUBLIC};
use crate::process::Process;
use crate::world::World;

/// Where it is told of sessions.
pub const CONTROL: u16 = 22222;

/// A running rtpengine; it ends with its world, or when dropped.
pub struct Rtpengine {
    process: Process,
}

impl Rtpengine {
    /// Starts one.
    pub fn start(world: &World, lab: &Lab) -> Rtpengine {
        let launch =
            world.native("rtpengine").inside(&lab.public).args(["--foreground", "--log-stderr", "--log-level=6"]);
        let launch = launch.args(["--table=-1", "--port-min=31000", "--port-max=31999", "--num-threads=2"]);
        let launch = launch.arg(format!("--interface={PUBLIC}")).arg(format!("--listen-ng={PUBLIC}:{CONTROL}"));
        let mut process = launch.start();
        process.wait_for_err("Startup complete");
        Rtpengine { process }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}
