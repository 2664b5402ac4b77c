// What edgeae throws on purpose.

/** Base of every error that edgeae throws on purpose: one line, which file or argument, what is wrong, what to do. */
export class EdgeaeError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}
/** A bundle that is not as export/FORMAT.md has it, or a graph that is not what the manifest promises. */
export class BundleError extends EdgeaeError {}
/** A file that is not the one that the manifest lists. */
export class IntegrityError extends BundleError {}
/** An argument that does not fit. */
export class InputError extends EdgeaeError {}

/** Text from elsewhere, for messages. @type {(text: string) => string} */
export const quoted = (value) => `'${value.length > 60 ? `${value.slice(0, 57)}...` : value}'`;
