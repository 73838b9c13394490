package me.prexorjustin.prexorcloud.module;

import java.nio.file.Path;

/** What a module can do and know; any thread may call it. */
public interface ModuleContext {
    /** The module's id. */
    String id();

    /** The module's version. */
    String version();

    /** The node that it runs on. */
    String node();

    /** Where it may keep files; they stay when the module is upgraded, and go when it is uninstalled. */
    Path folder();

    /** Asks for events, each type by the full name of its class. */
    void subscribe(String... eventTypes);

    /** Asks for no more of them. */
    void unsubscribe(String... eventTypes);

    /** Writes a line to the console of the module: ERROR, WARN, INFO, DEBUG or TRACE. */
    void log(String level, String message);

    /** Says that it works, or that it waits for what the text says. */
    void waiting(String why);

    /** Says that it works. */
    void active();
}
