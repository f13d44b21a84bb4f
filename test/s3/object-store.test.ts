/** The S3 store against versitygw, a second service besides LocalStack's: `npm run test:s3`. */
import { after, describe, test } from "node:test";
import { preflightStore } from "../../lambdas/repository/preflight.ts";
import { startVersitygw } from "../../local/versitygw.ts";
import { objectLockContract, objectStoreContract } from "../contract/object-store.ts";
import { objectStoreUnderFaults } from "../contract/object-store-faults.ts";
import { connectS3Service } from "../support/s3-service.ts";

const gateway = await startVersitygw();
const service = await connectS3Service(gateway);
after(async () => {
  await service.close();
  await gateway.stop();
});

const files = { nestedKeys: false };
objectStoreContract("versitygw", async () => service.newStore(), files);
objectLockContract("versitygw", (locks) => service.openLockable(locks));
objectStoreUnderFaults("versitygw", () => service.openFaulty(), files);

describe("versitygw", () => {
  test("passes the preflight", () => preflightStore(service.newStore()));
});
