package me.prexorjustin.prexorcloud.module;

/** What an author of a module writes; all of it is called by one thread, one call after the other. */
public interface HostedModule {
    /** Begins; the module is ACTIVE when this returns, and FAILED when it throws. */
    void start(ModuleContext context) throws Exception;

    /** Takes an event of a type that the module has subscribed to; what it throws is logged. */
    default void event(ModuleContext context, String eventType, String payloadJson) throws Exception {}

    /**
     * The same with the event's number, 0 where the controller has none; what is called is this one.
     *
     * <p>Events come at least once: one whose number is not above that of the last one has been here, unless a gap came in
     * between.
     */
    default void event(ModuleContext context, String eventType, String payloadJson, long sequence) throws Exception {
        event(context, eventType, payloadJson);
    }

    /** So many events at most are missing before the next one; what it throws is logged. */
    default void gap(ModuleContext context, long missed) {
        context.log("WARN", missed + " events were left out");
    }

    /** Ends; the process is killed when this takes longer than the daemon waits. */
    default void stop(ModuleContext context) throws Exception {}
}
