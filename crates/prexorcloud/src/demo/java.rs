//! Which Java there is, and what to install if there is none

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use prexorcloud_daemon::preparation::find_java;
use tokio::process::Command;
use tokio::time::timeout;

const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// A Java that runs
#[derive(Debug)]
pub struct Java {
    pub program: PathBuf,
    /// The first line of what it says about itself
    pub version: String,
}

/// Looks where the daemon will look, and asks what it finds for its version
pub async fn find() -> Option<Java> {
    let program = find_java(None, |name| std::env::var(name).ok()).ok()?;
    let asked = Command::new(&program)
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let answer = timeout(VERSION_LIMIT, asked).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&answer.stderr);
    let first = text.lines().next().filter(|_| answer.status.success())?;
    Some(Java {
        program,
        version: first.replace('"', ""),
    })
}

/// The command that installs a Java runtime on this machine
pub fn how_to_install() -> &'static str {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    command_for(&release)
}

fn command_for(os_release: &str) -> &'static str {
    let value = |key: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .trim_matches('"')
    };
    let names = value("ID").split(' ').chain(value("ID_LIKE").split(' '));
    for name in names {
        match name {
            "debian" | "ubuntu" => return "apt-get install default-jre-headless",
            "fedora" | "rhel" | "centos" => return "dnf install java-latest-openjdk-headless",
            "alpine" => return "apk add openjdk21-jre-headless",
            "arch" => return "pacman -S jre-openjdk-headless",
            "suse" | "opensuse" | "sles" => return "zypper install java-21-openjdk-headless",
            "nixos" => return "nix-env -iA nixos.jdk_headless",
            _ => {}
        }
    }
    "install the headless OpenJDK runtime (JRE) 17 or newer of your system"
}

#[cfg(test)]
mod tests {
    use super::command_for;

    #[test]
    fn the_package_has_the_name_that_the_distribution_gives_it() {
        for (release, expected) in [
            (
                "NAME=\"Debian\"\nID=debian\n",
                "apt-get install default-jre-headless",
            ),
            (
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                "apt-get install default-jre-headless",
            ),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"",
                "dnf install java-latest-openjdk-headless",
            ),
            ("ID=alpine", "apk add openjdk21-jre-headless"),
            (
                "ID=opensuse-leap\nID_LIKE=\"suse opensuse\"",
                "zypper install java-21-openjdk-headless",
            ),
            (
                "",
                "install the headless OpenJDK runtime (JRE) 17 or newer of your system",
            ),
        ] {
            assert_eq!(command_for(release), expected);
        }
    }
}
