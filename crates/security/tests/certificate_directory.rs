//! What a daemon finds after a restart, a renewal, and an accident
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use prexorcloud_security::authority::Authority;
use prexorcloud_security::certificate_directory::{CertificateDirectory, CertificateDirectoryError};
use prexorcloud_security::enrolment::Enrolled;
use prexorcloud_security::files::FileError;
use prexorcloud_security::keystore::KeystoreError;
use prexorcloud_security::trust::TrustAnchors;
use support::{authority, epoch};

fn enrolled(authority: &Authority) -> Enrolled {
    let credential = authority.issue_node("node-1", epoch()).unwrap();
    Enrolled {
        credential,
        anchors: authority.trust_anchors().unwrap(),
    }
}

#[test]
fn what_is_stored_is_found_again_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let directory = CertificateDirectory::new(dir.path().join("security"));
    assert!(directory.load().unwrap().is_none());
    let authority = authority();
    let first = enrolled(&authority);
    directory.store(&first).unwrap();
    let found = directory.load().unwrap().unwrap();
    assert_eq!(
        (found.credential.leaf(), &found.anchors),
        (first.credential.leaf(), &first.anchors)
    );

    let mode = |name: &str| {
        fs::metadata(directory.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode("."), 0o700);
    for name in ["node.p12", ".node-password", "ca.pem"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    // A renewal keeps the password, so a crash between two files cannot leave a keystore without its password.
    let password = fs::read(directory.path().join(".node-password")).unwrap();
    let renewed = enrolled(&authority);
    directory.store(&renewed).unwrap();
    assert_eq!(
        fs::read(directory.path().join(".node-password")).unwrap(),
        password
    );
    assert_eq!(
        directory.load().unwrap().unwrap().credential.leaf(),
        renewed.credential.leaf()
    );
}

#[test]
fn a_directory_of_a_java_daemon_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let directory = CertificateDirectory::new(dir.path());
    directory.store(&enrolled(&authority())).unwrap();
    // Java writes ca.pem with the default mode, and other tools end the password with a line feed.
    fs::set_permissions(dir.path().join("ca.pem"), Permissions::from_mode(0o644)).unwrap();
    let password = fs::read_to_string(dir.path().join(".node-password")).unwrap();
    let edited = format!("\u{feff}{password} \r\n\r\n");
    fs::write(dir.path().join(".node-password"), edited).unwrap();
    let anchors = fs::read_to_string(dir.path().join("ca.pem")).unwrap();
    let edited = format!("\u{feff}{} \r\n", anchors.replace('\n', "\r\n"));
    fs::write(dir.path().join("ca.pem"), edited).unwrap();
    assert!(directory.load().unwrap().is_some());
}

#[test]
fn an_interrupted_first_store_counts_as_not_enrolled() {
    let dir = tempfile::tempdir().unwrap();
    let directory = CertificateDirectory::new(dir.path());
    directory.store(&enrolled(&authority())).unwrap();
    // Files in the order in which they are written; a crash leaves some of the first ones.
    for missing in ["node.p12", "ca.pem", ".node-password"] {
        fs::remove_file(dir.path().join(missing)).unwrap();
        assert!(directory.load().unwrap().is_none(), "without {missing}");
    }
    directory.store(&enrolled(&authority())).unwrap();
    assert!(directory.load().unwrap().is_some());
}

#[test]
fn damage_is_named_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let directory = CertificateDirectory::new(dir.path());
    directory.store(&enrolled(&authority())).unwrap();
    let path = |name: &str| dir.path().join(name);
    let refuse = || directory.load().unwrap_err();

    fs::write(path(".node-password"), "another").unwrap();
    let error = refuse();
    assert!(matches!(
        &error,
        CertificateDirectoryError::Keystore {
            source: KeystoreError::WrongPassword,
            ..
        }
    ));
    assert!(error.to_string().contains("node.p12"), "{error}");
    fs::write(path(".node-password"), "").unwrap();
    assert!(matches!(refuse(), CertificateDirectoryError::Password { .. }));
    fs::set_permissions(path(".node-password"), Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        refuse(),
        CertificateDirectoryError::File(FileError::TooOpen { .. })
    ));
    fs::remove_file(path(".node-password")).unwrap();
    assert!(matches!(refuse(), CertificateDirectoryError::File(error) if error.is_not_found()));

    directory.store(&enrolled(&authority())).unwrap();
    fs::write(path("ca.pem"), authority().certificate().to_pem()).unwrap();
    let error = refuse();
    assert!(matches!(error, CertificateDirectoryError::Mismatch { .. }));
    assert!(error.to_string().contains("enrol again"), "{error}");
    fs::write(path("ca.pem"), "").unwrap();
    assert!(matches!(refuse(), CertificateDirectoryError::Anchors { .. }));
}

#[test]
fn what_does_not_fit_together_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let directory = CertificateDirectory::new(dir.path());
    let Enrolled { credential, .. } = enrolled(&authority());
    let anchors = TrustAnchors::new([authority().certificate().clone()]).unwrap();
    let error = directory.store(&Enrolled { credential, anchors }).unwrap_err();
    assert!(matches!(error, CertificateDirectoryError::Mismatch { .. }));
    assert!(directory.load().unwrap().is_none());
}

#[test]
fn preparing_shows_beforehand_whether_storing_will_work() {
    let dir = tempfile::tempdir().unwrap();
    let directory = CertificateDirectory::new(dir.path().join("security"));
    directory.prepare().unwrap();
    directory.prepare().unwrap();
    assert!(directory.load().unwrap().is_none());
    directory.store(&enrolled(&authority())).unwrap();
    directory.prepare().unwrap();
    assert!(directory.load().unwrap().is_some(), "preparing changes nothing");

    fs::write(dir.path().join("file"), "").unwrap();
    let error = CertificateDirectory::new(dir.path().join("file"))
        .prepare()
        .unwrap_err();
    assert!(matches!(error, CertificateDirectoryError::File(_)));
}

#[test]
fn a_useless_password_does_not_stand_in_the_way_of_a_new_enrolment() {
    let dir = tempfile::tempdir().unwrap();
    let directory = CertificateDirectory::new(dir.path());
    fs::write(dir.path().join(".node-password"), "").unwrap();
    directory.store(&enrolled(&authority())).unwrap();
    assert!(directory.load().unwrap().is_some());
}
