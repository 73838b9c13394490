//! Jars of modules that have a manifest and nothing else

/// CRC-32 as zip has it
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

fn zip(manifest: &str) -> Vec<u8> {
    let name = b"META-INF/prexor/module.yaml";
    let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    common.extend(crc(manifest.as_bytes()).to_le_bytes());
    let size = u32::try_from(manifest.len()).unwrap().to_le_bytes();
    common.extend([size, size].concat());
    common.extend([27, 0, 0, 0]);
    let mut jar = [&b"PK\x03\x04"[..], &common, name, manifest.as_bytes()].concat();
    let at = u32::try_from(jar.len()).unwrap();
    let list = [&b"PK\x01\x02\x14\0"[..], &common, &[0; 14], name].concat();
    jar.extend(&list);
    jar.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    jar.extend(u32::try_from(list.len()).unwrap().to_le_bytes());
    jar.extend(at.to_le_bytes());
    jar.extend([0, 0]);
    jar
}

/// A jar that is UTF-8, since requests of these tests are
pub fn jar(manifest: &str) -> String {
    let padded = (0..).map(|count| format!("{manifest}# {}\n", "x".repeat(count)));
    padded
        .filter_map(|manifest| String::from_utf8(zip(&manifest)).ok())
        .next()
        .unwrap()
}

pub fn module(id: &str, version: &str) -> String {
    jar(&format!(
        "id: {id}\nversion: {version}\nhosts: [daemon]\nbackend:\n  daemon:\n    entrypoint: a.Main\n    host: process\n"
    ))
}
