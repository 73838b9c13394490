package me.prexorjustin.prexorcloud.module;

/** What an author of a module writes; all of it is called by one thread, one call after the other. */
public interface HostedModule {
    /** Begins; the module is ACTIVE when this returns, and FAILED when it throws. */
    void start(ModuleContext context) throws Exception;

    /** Takes an event of a type that the module has subscribed to; what it throws is logged. */
    default void event(ModuleContext context, String eventType, String payloadJson) throws Exception {}

    /** Events were left out, because the module was slow. */
    default void gap(ModuleContext context, long missed) {
        context.log("WARN", missed + " events were left out");
    }

    /** Ends; the process is killed when this takes longer than the daemon waits. */
    default void stop(ModuleContext context) throws Exception {}
}
