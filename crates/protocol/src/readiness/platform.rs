//! What the platforms print when they are ready

use prexorcloud_proto::{ConfigFormat, InstanceCategory};

/// A family of servers that say in the same words that they are ready
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// Servers with Mojang's in them: vanilla, Paper and its forks, Spigot, Fabric, Forge, NeoForge, Quilt, Sponge.
    Minecraft,
    /// The proxy Velocity.
    Velocity,
    /// The proxy BungeeCord and its forks.
    Bungeecord,
}

/// Names that the file of a server or the platform of an order begins with.
const MINECRAFT: [&str; 32] = [
    "airplane",
    "arclight",
    "bukkit",
    "canvas",
    "catserver",
    "craftbukkit",
    "fabric",
    "folia",
    "forge",
    "ketting",
    "leaf",
    "leaves",
    "magma",
    "minecraft",
    "minecraft_server",
    "mohist",
    "neoforge",
    "paper",
    "paperclip",
    "plazma",
    "pufferfish",
    "purpur",
    "quilt",
    "spigot",
    "sponge",
    "spongeforge",
    "spongevanilla",
    "tacospigot",
    "tuinity",
    "vanilla",
    "yatopia",
    "youer",
];
const VELOCITY: [&str; 2] = ["velocity", "velocityctd"];
const BUNGEECORD: [&str; 7] = [
    "bungee",
    "bungeecord",
    "flamecord",
    "hexacord",
    "travertine",
    "waterfall",
    "xcord",
];

impl Platform {
    /// Every platform that is known.
    pub const ALL: [Self; 3] = [Self::Minecraft, Self::Velocity, Self::Bungeecord];

    /// The name of the family.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minecraft => "minecraft",
            Self::Velocity => "velocity",
            Self::Bungeecord => "bungeecord",
        }
    }

    /// The ready line, as an example for people.
    #[must_use]
    pub const fn example(self) -> &'static str {
        match self {
            Self::Minecraft => "Done (1.2s)! For help",
            Self::Velocity => "Done (1.2s)!",
            Self::Bungeecord => "Listening on /0.0.0.0:25577",
        }
    }

    /// The platform with this name, or whose jar is usually called so: a word that is known, and then whatever follows it,
    /// as a version does.
    ///
    /// ```
    /// use prexorcloud_protocol::readiness::Platform;
    ///
    /// assert_eq!(Platform::named("paper-1.21.4-232.jar"), Some(Platform::Minecraft));
    /// assert_eq!(Platform::named("BungeeCord.jar"), Some(Platform::Bungeecord));
    /// assert_eq!(Platform::named("papermill.jar"), None);
    /// assert_eq!(Platform::named("server.jar"), None, "it will say itself what it is");
    /// ```
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default().trim();
        let end = name
            .find(|letter: char| !letter.is_ascii_alphabetic() && letter != '_')
            .unwrap_or(name.len());
        let word = name.get(..end).unwrap_or_default().trim_end_matches('_');
        let is_one_of = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(word));
        if is_one_of(&MINECRAFT) {
            Some(Self::Minecraft)
        } else if is_one_of(&VELOCITY) {
            Some(Self::Velocity)
        } else if is_one_of(&BUNGEECORD) {
            Some(Self::Bungeecord)
        } else {
            None
        }
    }

    /// The platform whose configuration files these are.
    pub(super) const fn of_format(format: ConfigFormat, category: InstanceCategory) -> Option<Self> {
        match (format, category) {
            (ConfigFormat::Paper | ConfigFormat::Spigot, _) => Some(Self::Minecraft),
            (ConfigFormat::Velocity, _) => Some(Self::Velocity),
            (ConfigFormat::Bungeecord, _) => Some(Self::Bungeecord),
            (ConfigFormat::Unspecified | ConfigFormat::Geyser, _) => None,
        }
    }

    /// Whether a message, without what a log puts before it, is the ready line.
    pub(super) fn is_ready_line(self, message: &str) -> bool {
        match self {
            Self::Minecraft => after_done(message).is_some_and(|rest| rest.starts_with(" For help")),
            Self::Velocity => after_done(message).is_some_and(|rest| rest.trim_end().is_empty()),
            Self::Bungeecord => is_listening(message),
        }
    }

    /// The platform that says in this message what it is.
    pub(super) fn announced_by(message: &str) -> Option<Self> {
        let begins = |words: &[&str]| words.iter().any(|word| message.starts_with(word));
        if begins(&[
            "Starting minecraft server version ",
            "Starting Minecraft server on ",
            "Loading Minecraft ",
            "Loading Paper ",
            "Loading Purpur ",
            "Loading Folia ",
        ]) {
            Some(Self::Minecraft)
        } else if begins(&["Booting up Velocity "]) {
            Some(Self::Velocity)
        } else if begins(&["Enabled BungeeCord version ", "Enabled Waterfall version "]) {
            Some(Self::Bungeecord)
        } else {
            None
        }
    }
}

/// What follows `Done (1.2s)!`. The number is written as the locale of the server writes numbers.
fn after_done(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("Done (")?;
    let unit = rest.trim_start_matches(|letter: char| {
        letter.is_numeric()
            || matches!(
                letter,
                '.' | ',' | '\u{66b}' | '\u{66c}' | '\'' | '\u{a0}' | '\u{202f}'
            )
    });
    if unit.len() == rest.len() {
        return None;
    }
    ["s)!", "ms)!", "ns)!"]
        .into_iter()
        .find_map(|end| unit.strip_prefix(end))
}

/// Whether a message is `Listening on /0.0.0.0:25577`, with or without a host name before the slash.
fn is_listening(message: &str) -> bool {
    let Some((host, address)) = message
        .strip_prefix("Listening on ")
        .and_then(|rest| rest.trim_end().split_once('/'))
    else {
        return false;
    };
    let Some((ip, port)) = address.rsplit_once(':') else {
        return false;
    };
    !host.contains(char::is_whitespace)
        && !ip.is_empty()
        && !ip.contains(char::is_whitespace)
        && port.parse::<u16>().is_ok()
}
