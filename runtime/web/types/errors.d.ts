/** Base of every error that edgeae throws on purpose: one line, which file or argument, what is wrong, what to do. */
export declare class EdgeaeError extends Error {
    /** @param {string} message */
    constructor(message: string);
}
/** A bundle that is not as export/FORMAT.md has it, or a graph that is not what the manifest promises. */
export declare class BundleError extends EdgeaeError {
}
/** A file that is not the one that the manifest lists. */
export declare class IntegrityError extends BundleError {
}
/** An argument that does not fit. */
export declare class InputError extends EdgeaeError {
}
/** Text from elsewhere, for messages. @type {(text: string) => string} */
export declare const quoted: (text: string) => string;
