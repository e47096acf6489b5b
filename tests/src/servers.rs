//! Real servers: their configuration in the world's directory, started and ready. Each takes the [`Launch`] that names the
//! server's program, so that it runs natively or under sipbox, with whatever identity.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{Launch, Process};
use crate::world::World;

/// `redis-server` on all addresses.
pub fn redis(launch: Launch, port: u16) -> Process {
    let mut server = launch
        .args(["--port", &port.to_string(), "--bind", "0.0.0.0", "--protected-mode", "no"])
        .args(["--save", "", "--appendonly", "no"])
        .start();
    server.wait_for("Ready to accept connections");
    server
}

/// `nginx` on all addresses, serving `DIR/www`, where DIR is the world's directory.
pub fn nginx(world: &World, launch: Launch, port: u16) -> Process {
    let dir = world.make_dir("nginx", 0o755);
    world.make_dir("www", 0o755);
    let d = dir.display();
    let config = world.write(
        "nginx/nginx.conf",
        format!(
            "worker_processes 1;\ndaemon off;\npid {d}/pid;\nerror_log stderr notice;\nevents {{ worker_connections 256; }}\n\
             http {{\n  access_log {d}/access.log;\n  client_body_temp_path {d}/body;\n  proxy_temp_path {d}/proxy;\n  \
             fastcgi_temp_path {d}/fastcgi;\n  uwsgi_temp_path {d}/uwsgi;\n  scgi_temp_path {d}/scgi;\n  \
             sendfile on;\n  server {{ listen 0.0.0.0:{port}; root {}; }}\n}}\n",
            world.path("www").display()
        ),
    );
    let mut server = launch.args(["-e", "stderr", "-p"]).arg(&dir).arg("-c").arg(config).start();
    // Written after the listening sockets are open.
    server.wait_for_err("start worker process ");
    server
}

/// `iperf3 -s` for one client.
pub fn iperf(launch: Launch, port: u16) -> Process {
    let mut server = launch.args(["-s", "-1", "--forceflush", "-p", &port.to_string()]).start();
    server.wait_for("Server listening on");
    server
}

/// The number behind the last `"key":` after the last `"section":` of a JSON text: enough for iperf3's reports.
pub fn json_number(text: &str, section: &str, key: &str) -> f64 {
    let rest = text.rsplit_once(&format!("\"{section}\":")).map_or("", |(_, r)| r);
    let rest = rest.split_once(&format!("\"{key}\":")).map_or("", |(_, r)| r).trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && !".eE+-".contains(c)).unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|_| panic!("no number {section}.{key} in\n{text}"))
}

/// Where Debian keeps PostgreSQL's server programs.
pub fn postgres_program(name: &str) -> PathBuf {
    let root = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<PathBuf> = fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path()).collect();
    versions.sort();
    let found = versions.iter().rev().map(|v| v.join("bin").join(name)).find(|p| p.exists());
    found.unwrap_or_else(|| panic!("no {name} below {}: run tests/install.sh", root.display()))
}

/// A new database cluster in the world's directory, and `postgres` on it, on all addresses and without unix sockets.
/// The superuser is `tester`, without a password.
pub fn postgres(world: &World, launch: Launch, port: u16) -> Process {
    let data = world.path("pg");
    let initdb = postgres_program("initdb");
    world
        .native(&initdb.to_string_lossy())
        .arg("-D")
        .arg(&data)
        .args(["-A", "trust", "-U", "tester", "-E", "UTF8", "--no-locale", "--no-sync"])
        .finish()
        .success();
    world.write("pg/pg_hba.conf", "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n");
    let mut server = launch
        .arg("-D")
        .arg(&data)
        .args(["-p", &port.to_string(), "-h", "0.0.0.0", "-k", ""])
        .args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "logging_collector=off"])
        .start();
    server.wait_for_err("database system is ready to accept connections");
    server
}

/// Keys in the world's directory and `sshd` (give its absolute path in the launch) on all addresses, for the user whom
/// the world runs programs as.
pub fn sshd(world: &World, launch: Launch, port: u16) -> Process {
    for key in ["host_key", "user_key"] {
        let made = world.native("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(world.path(key));
        made.finish().success();
    }
    let public = fs::read(world.path("user_key.pub")).unwrap_or_else(|e| panic!("the key just made: {e}"));
    world.write("authorized_keys", public);
    let d = world.dir().display();
    let config = world.write(
        "sshd_config",
        format!(
            "ListenAddress 0.0.0.0\nPort {port}\nHostKey {d}/host_key\nAuthorizedKeysFile {d}/authorized_keys\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPrintMotd no\nUseDNS no\n\
             Subsystem sftp internal-sftp\n"
        ),
    );
    let mut server = launch.args(["-D", "-e", "-f"]).arg(config).start();
    server.wait_for_err("Server listening on");
    server
}

/// The options that make `ssh` and `scp` use the world's key and nothing of the user's own.
pub fn ssh_options(world: &World) -> Vec<String> {
    let d = world.dir().display();
    let mut options = vec!["-F".into(), "none".into(), "-i".into(), format!("{d}/user_key")];
    for option in [
        "IdentitiesOnly=yes".to_owned(),
        "BatchMode=yes".into(),
        "StrictHostKeyChecking=no".into(),
        format!("UserKnownHostsFile={d}/known_hosts"),
        "ConnectTimeout=20".into(),
        "LogLevel=ERROR".into(),
    ] {
        options.extend(["-o".to_owned(), option]);
    }
    options
}
