/**
 * The key that wraps the data keys of encrypted stores: none, one that is made here, or one that exists. A key that is made here outlives
 * the stack where its data does: without it no encrypted backup is ever read again.
 */
import { RemovalPolicy, Stack } from "aws-cdk-lib";
import * as kms from "aws-cdk-lib/aws-kms";
import { Construct } from "constructs";
import type { StoreEncryption } from "../lambdas/domain/inventory.ts";
import type { HandlerFunction } from "./handler-function.ts";
import { allow } from "./permissions.ts";

/** `generate`: new data keys for new domains. `unwrap`: the data keys of domains that are there. */
export type KeyAccess = "generate" | "unwrap";

const actions: Readonly<Record<KeyAccess, string>> = {
  generate: "kms:GenerateDataKey",
  unwrap: "kms:Decrypt",
};

/** {@link EncryptionKey} */
export interface EncryptionKeyProps {
  /** `none`, `create`, or a key's ARN. */
  readonly encryptionKey: string;
  readonly defaultStoreEncryption: StoreEncryption;
  readonly retainData: boolean;
}

export class EncryptionKey extends Construct {
  /** Undefined: there is none. */
  readonly arn: string | undefined;
  readonly #props: EncryptionKeyProps;

  constructor(scope: Construct, id: string, props: EncryptionKeyProps) {
    super(scope, id);
    this.#props = props;
    if (props.encryptionKey !== "none")
      this.arn = props.encryptionKey === "create" ? this.#create() : props.encryptionKey;
  }

  #create(): string {
    const key = new kms.Key(this, "Key", {
      description: `${Stack.of(this).stackName}: wraps the data keys of encrypted stores`,
      enableKeyRotation: true,
      removalPolicy: this.#props.retainData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY,
    });
    return key.keyArn;
  }

  /** Tells `handler` of the key and how the default store is encrypted, and gives it rights to the key. */
  grant(handler: HandlerFunction, access: readonly KeyAccess[]): void {
    handler.addEnvironment("DEFAULT_STORE_ENCRYPTION", this.#props.defaultStoreEncryption);
    if (this.arn === undefined) return;
    handler.addEnvironment("ENCRYPTION_KEY_ARN", this.arn);
    if (access.length > 0) allow(handler.role, { actions: access.map((one) => actions[one]), resources: [this.arn] });
  }
}
