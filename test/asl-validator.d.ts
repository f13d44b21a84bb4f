declare module "asl-validator" {
  /** Checks a definition in Amazon States Language. */
  export default function validate(
    definition: object,
    options?: { checkPaths?: boolean; checkArn?: boolean },
  ): { isValid: boolean; errorsText(): string };
}
