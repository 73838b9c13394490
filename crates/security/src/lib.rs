//! Certificates, PKCS#12 keystores, join tokens and trust pins of PrexorCloud
