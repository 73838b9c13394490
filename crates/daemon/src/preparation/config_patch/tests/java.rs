//! What the tests of the Java daemon pin of its patcher

use super::*;

const SET: i32 = ConfigPatchOp::Set as i32;
const REPLACE: i32 = ConfigPatchOp::Replace as i32;
const REGEX: i32 = ConfigPatchOp::Regex as i32;

#[track_caller]
fn assert_patched(file: &str, former: &str, (op, key, value): (i32, &str, &str), wanted: &str) {
    let folder = Folder::new();
    fs::write(folder.0.path().join(file), former).unwrap();
    folder.carry_out(file, key, value, op).unwrap();
    assert_eq!(fs::read_to_string(folder.0.path().join(file)).unwrap(), wanted);
}

#[test]
fn patcher_set_rewrites_and_appends_properties() {
    let former = "server-port=25565\nonline-mode=true\n";
    let rewritten = former.replace("25565", "30000");
    assert_patched(
        "server.properties",
        former,
        (SET, "server-port", "30000"),
        &rewritten,
    );
    let appended = format!("{former}max-players=20\n");
    assert_patched("server.properties", former, (SET, "max-players", "20"), &appended);
}

#[test]
fn patcher_replace_never_creates() {
    for (file, former) in [
        ("server.properties", "a=1\n"),
        ("velocity.toml", "a = 1\n"),
        ("spigot.yml", "a: 1\n"),
        ("ops.json", "{\"a\": 1}"),
    ] {
        assert_patched(file, former, (REPLACE, "b", "2"), former);
        assert_patched(file, former, (REPLACE, "s.b", "2"), former);
    }
}

#[test]
fn patcher_toml_numbers_are_bare_and_text_is_quoted() {
    let former = "port = 25565\nbind = \"0.0.0.0\"\n";
    assert_patched(
        "velocity.toml",
        former,
        (SET, "port", "25577"),
        &former.replace("25565", "25577"),
    );
    let bound = former.replace("0.0.0.0", "127.0.0.1");
    assert_patched("velocity.toml", former, (SET, "bind", "127.0.0.1"), &bound);
}

#[test]
fn patcher_remote_address_does_not_touch_bedrock() {
    let former = "bedrock:\n  address: 0.0.0.0\n  port: 19132\nremote:\n  address: auto\n  port: 25565\n";
    let patched = former.replace("auto", "\"127.0.0.1\"");
    assert_patched(
        "config.yml",
        former,
        (SET, "remote.address", "127.0.0.1"),
        &patched,
    );
}

#[test]
fn patcher_an_absent_nested_path_is_not_appended() {
    let former = "proxies:\n  velocity:\n    enabled: false\n";
    for key in ["proxies.velocity.secret", "remote.address"] {
        assert_patched("paper-global.yml", former, (SET, key, "x"), former);
        assert_patched("paper-global.yml", former, (REPLACE, key, "x"), former);
    }
}

#[test]
fn patcher_regex_replaces_on_all_lines() {
    let former = "a: false\r\nb:\r\n  c: false # false\r\n";
    let patched = former.replace(": false", ": true");
    for file in ["x.yml", "x.cfg"] {
        assert_patched(file, former, (REGEX, ": false", ": true"), &patched);
    }
}

#[test]
fn patcher_forwarding_secret_is_trimmed_and_without_it_the_patch_is_skipped() {
    let folder = Folder::new();
    let path = folder.0.path().join("x.yml");
    fs::write(&path, "a: 1\n").unwrap();
    for op in [SET, REPLACE, REGEX] {
        folder.carry_out("x.yml", "a", "%FORWARDING_SECRET%", op).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a: 1\n");
    }
    fs::write(folder.0.path().join("forwarding.secret"), " $1\\ \n").unwrap();
    folder
        .carry_out("x.yml", "a: .*", "a: '%FORWARDING_SECRET%'", REGEX)
        .unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "a: '$1\\'\n");
    folder
        .carry_out("x.yml", "a", "%FORWARDING_SECRET%", REPLACE)
        .unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "a: \"$1\\\\\"\n");
}

#[test]
fn patcher_a_missing_file_is_skipped() {
    let folder = Folder::new();
    for op in [SET, REPLACE, REGEX] {
        folder
            .carry_out("config/paper-global.yml", "proxies.velocity.secret", "x", op)
            .unwrap();
    }
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 0);
}

#[test]
fn patcher_a_blank_file_or_key_is_skipped() {
    let folder = Folder::new();
    fs::write(folder.0.path().join("x.yml"), "a: 1\n").unwrap();
    for (file, key) in [(" ", "a"), ("x.yml", ""), ("x.yml", " ")] {
        folder.carry_out(file, key, "2", SET).unwrap();
    }
    assert_eq!(
        fs::read_to_string(folder.0.path().join("x.yml")).unwrap(),
        "a: 1\n"
    );
}

#[test]
fn patcher_a_path_that_leads_out_is_permanent() {
    let parent = Folder::new();
    let folder = Folder::new();
    let outside = parent.0.path().join("evil.properties");
    fs::write(&outside, "a=1\n").unwrap();
    folder.assert_refused("../evil.properties", "leads out");
    folder.assert_refused(outside.to_str().unwrap(), "leads out");
    assert_eq!(fs::read_to_string(outside).unwrap(), "a=1\n");
}

#[test]
fn patcher_a_replacement_without_its_group_is_permanent() {
    let folder = Folder::new();
    fs::write(folder.0.path().join("x.yml"), "a: 1\n").unwrap();
    for value in ["$9", "x$", "\\"] {
        let error = folder.carry_out("x.yml", "a", value, REGEX).unwrap_err();
        assert_eq!(
            error.disposition(),
            prexorcloud_proto::StartFailureDisposition::Permanent
        );
    }
    assert_eq!(
        fs::read_to_string(folder.0.path().join("x.yml")).unwrap(),
        "a: 1\n"
    );
}
