//! Certificates of an authority of the test's own, made by openssl, which is not what sipbox makes or reads them with.

use std::path::PathBuf;

use crate::world::World;

/// The certificate of the world's authority, `ca.crt`, made when first asked for.
pub fn authority(world: &World) -> PathBuf {
    let certificate = world.path("ca.crt");
    if !certificate.exists() {
        openssl(
            world,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority",
        );
    }
    certificate
}

/// `NAME.crt` and `NAME.key`, for the names as openssl writes them: `DNS:localhost,URI:sip:example.org`.
pub fn issue(world: &World, name: &str, names: &str) -> (PathBuf, PathBuf) {
    authority(world);
    let request = format!(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
    );
    openssl(world, &request);
    let extensions = format!("basicConstraints=CA:FALSE\nsubjectAltName={names}\n");
    world.write(&format!("{name}.ext"), extensions);
    openssl(
        world,
        &format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out {name}.crt -extfile {name}.ext"
        ),
    );
    (world.path(&format!("{name}.crt")), world.path(&format!("{name}.key")))
}

/// What session descriptions say of `NAME.crt` (RFC 8122 section 5).
pub fn fingerprint(world: &World, name: &str) -> String {
    let file = format!("{name}.crt");
    let done =
        world.native("openssl").cwd(world.dir()).args(["x509", "-noout", "-fingerprint", "-sha256", "-in", &file]);
    let said = done.finish().success().stdout;
    let (_, digits) = said.trim().split_once('=').unwrap_or_else(|| panic!("openssl says {said}"));
    format!("sha-256 {digits}")
}

fn openssl(world: &World, words: &str) {
    world.native("openssl").cwd(world.dir()).args(words.split(' ')).finish().success();
}
