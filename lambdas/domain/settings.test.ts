import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { checkSetting, InvalidSetting, parseSettings, settingTexts } from "./settings.ts";

const given = (values: Record<string, string>) => (name: string) => values[name];

describe("settings", () => {
  it("have defaults", () => {
    const settings = parseSettings({});
    assert.equal(settings.maxAttempts, 3);
    assert.equal(settings.retryIntervalSeconds, 300);
    assert.equal(settings.errorGraceSeconds, 900);
    assert.equal(settings.hintAuditPercent, 1);
    assert.equal(settings.verifySamplePercent, 1);
    assert.equal(settings.primaryRetention, "reference");
    assert.equal(settings.maxPrimaryChain, 16);
  });

  it("take shares from none to all", () => {
    const shares = { "hint.audit.percent": "0", "verify.sample.percent": "100" };
    const { hintAuditPercent, verifySamplePercent } = parseSettings(shares);
    assert.deepEqual([hintAuditPercent, verifySamplePercent], [0, 100]);
  });

  it("take backup.retry as the number of retries after the first attempt", () => {
    assert.equal(settingTexts(given({ "backup.retry": "0" }))["backup.max.attempts"], "1");
    assert.equal(settingTexts(given({ "backup.retry": "4" }))["backup.max.attempts"], "5");
  });

  it("refuse an alias that contradicts, and say how", () => {
    assert.throws(
      () => settingTexts(given({ "backup.retry": "3", "backup.max.attempts": "3" })),
      (error: Error) =>
        error instanceof InvalidSetting && /backup\.retry \(3\) and backup\.max\.attempts \(3\)/.test(error.message),
    );
    assert.equal(settingTexts(given({ "backup.retry": "2", "backup.max.attempts": "3" }))["backup.max.attempts"], "3");
  });

  for (const [name, text] of [
    ["backup.max.attempts", "0"],
    ["backup.max.attempts", "three"],
    ["backup.max.attempts", "1e1"],
    ["backup.retry.interval", "-1"],
    ["backup.pool.size", ""],
    ["primary.retain", "yes"],
    ["primary.maxChain", "1"],
    ["hint.audit.percent", "101"],
    ["verify.sample.percent", "0.5"],
  ] as const)
    it(`refuse ${name} = "${text}" by name`, () => {
      assert.throws(
        () => checkSetting(name, text),
        (error: Error) => error instanceof InvalidSetting && error.message.startsWith(name),
      );
    });
});
