/**
 * Stands for `node:http` in bundles. A module that imports that by name makes Node look at all it exports, WebSocket too, and so load its
 * whole client of the web: 36 ms of each cold start for something that no function uses.
 */
module.exports = process.getBuiltinModule("node:http");
