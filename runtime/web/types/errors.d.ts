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
/** The first characters of a text; half characters count as whole ones. @type {(text: string, count: number) => string} */
export declare const startOf: (text: string, count: number) => string;
/** @type {(text: string) => string} */
export declare const shortened: (text: string) => string;
/** A text as Python's repr writes it, or as its ascii does. @type {(text: string, onlyAscii?: boolean) => string} */
export declare function repr(text: string, onlyAscii?: boolean | undefined): string;
/** Text from elsewhere, for messages: one line, not long, printable. @type {(text: string) => string} */
export declare const quoted: (text: string) => string;
/** With commas between thousands. @type {(count: number) => string} */
export declare const grouped: (count: number) => string;
/** As Python writes a tuple. @type {(sides: readonly number[]) => string} */
export declare const tupleOf: (sides: readonly number[]) => string;
/** Up to five names, and how many more. @type {(names: readonly string[]) => string} */
export declare function someOf(names: readonly string[]): string;
