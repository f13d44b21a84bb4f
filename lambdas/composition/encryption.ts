import { defaultStoreId, type StoreEncryption, type StoreRow } from "../domain/inventory.ts";
import type { KeyService } from "../repository/key-service.ts";
import { KmsKeyService, noKeyService } from "./kms-key-service.ts";

/** What the deployment says about client-side encryption. */
export interface EncryptionOfDeployment {
  /** Whether there is a key: without one no encrypted store can be registered. */
  readonly hasKey: boolean;
  readonly ofDefaultStore: StoreEncryption;
}

export function encryptionOfDeployment(): EncryptionOfDeployment {
  return {
    hasKey: process.env.ENCRYPTION_KEY_ARN !== undefined,
    ofDefaultStore: process.env.DEFAULT_STORE_ENCRYPTION === "client" ? "client" : "none",
  };
}

let service: KeyService | undefined;

/** What opens the domains of a store; undefined when the store is not encrypted. */
export function keyServiceOf(store: Pick<StoreRow, "id" | "encryption">): KeyService | undefined {
  const encryption = store.id === defaultStoreId ? encryptionOfDeployment().ofDefaultStore : store.encryption;
  if (encryption !== "client") return undefined;
  const keyArn = process.env.ENCRYPTION_KEY_ARN;
  service ??= keyArn === undefined ? noKeyService : new KmsKeyService(keyArn);
  return service;
}
