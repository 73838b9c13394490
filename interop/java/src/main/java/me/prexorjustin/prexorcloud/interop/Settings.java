package me.prexorjustin.prexorcloud.interop;

/** What both Java programs set on their connections, and what they leave as grpc-java has it. */
final class Settings {
    static final int MAX_MESSAGE_BYTES = 100 * 1024 * 1024;
    static final long KEEPALIVE_SECONDS = 30;
    static final long KEEPALIVE_TIMEOUT_SECONDS = 10;
    /** How often a controller lets a daemon ping at most. */
    static final long PERMITTED_KEEPALIVE_SECONDS = 15;
    static final long IDLE_SECONDS = 300;
    static final long DEADLINE_SECONDS = 30;

    private Settings() {}
}
