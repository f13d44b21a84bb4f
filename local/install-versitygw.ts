/** Builds versitygw before tests and measurements need it, where its progress and what is missing can be seen. */
import { LocalCloudError } from "./cloud/errors.ts";
import { installVersitygw } from "./versitygw.ts";

try {
  await installVersitygw();
} catch (error) {
  if (!(error instanceof LocalCloudError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
