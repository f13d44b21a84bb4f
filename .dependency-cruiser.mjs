/** Arrows point inwards: what a folder may import. `npm run arch` checks it. */
const only = (name, from, allowed) => ({
  name,
  severity: "error",
  from: { path: from, pathNot: "\\.test\\.ts$" },
  to: { path: "^(bench|bin|lib|lambdas|cli|local|test)/", pathNot: allowed },
});

export default {
  forbidden: [
    { name: "no-circles", severity: "error", from: {}, to: { circular: true } },
    { name: "no-unresolved", severity: "error", from: {}, to: { couldNotResolve: true } },
    {
      name: "no-orphans",
      severity: "error",
      from: {
        orphan: true,
        pathNot:
          "\\.(test|d)\\.(ts|mts)$|^(bin|test)/|handler\\.ts$|^lambdas/(events|hypervisors/port|executions)|^lib/node-http|^\\.",
      },
      to: {},
    },
    { name: "not-to-tests", severity: "error", from: {}, to: { path: "^test/" } },
    {
      name: "not-to-dev-dependencies",
      severity: "error",
      from: { path: "^(lambdas|cli)/", pathNot: "\\.test\\.ts$" },
      to: { dependencyTypes: ["npm-dev"], dependencyTypesNot: ["type-only"] },
    },
    only("domain-imports-nothing-of-ours", "^lambdas/domain/", "^lambdas/domain/"),
    only("protocols-import-nothing-of-ours", "^lambdas/protocols/", "^lambdas/protocols/"),
    only("tables-import-the-domain", "^lambdas/tables/", "^lambdas/(tables|domain)/"),
    only("repository-imports-the-domain", "^lambdas/repository/", "^lambdas/(repository|domain|protocols)/"),
    only("hypervisors-import-the-domain", "^lambdas/hypervisors/", "^lambdas/(hypervisors|domain|protocols)/"),
    only("executions-import-the-domain", "^lambdas/executions/", "^lambdas/(executions|domain)/"),
    only("transactions-import-tables", "^lambdas/transactions/", "^lambdas/(transactions|tables|domain)/"),
    only(
      "endings-import-no-handlers",
      "^lambdas/endings/",
      "^lambdas/(endings|transactions|tables|domain|repository|hypervisors|services\\.ts)",
    ),
    {
      name: "only-handlers-compose",
      severity: "error",
      from: {
        path: "^lambdas/",
        pathNot:
          "^lambdas/composition/|handler\\.ts$|^lambdas/events/(dispatch|publish|reconcile)\\.ts$|\\.test\\.ts$|^lambdas/api/(hypervisors|stores)\\.ts$",
      },
      to: { path: "^lambdas/composition/" },
    },
    only("lambdas-know-no-tools", "^lambdas/", "^lambdas/"),
    only("the-stack-knows-the-settings-only", "^lib/", "^lib/|^lambdas/domain/"),
    only(
      "the-benchmark-drives-the-repository",
      "^bench/",
      "^bench/|^lambdas/(repository|hypervisors|domain)/|^local/|^lib/(codec-threads|compiler|node-environment)",
    ),
    { name: "not-to-the-benchmark", severity: "error", from: { pathNot: "^bench/" }, to: { path: "^bench/" } },
    only(
      "the-cli-speaks-http",
      "^cli/(?!bucket/)",
      "^cli/|^lambdas/api/(problem|request-schemas|response-schemas)\\.ts$",
    ),
    only(
      "what-reads-buckets-knows-the-format",
      "^cli/bucket/",
      "^cli/|^lambdas/(repository|domain)/|^lambdas/composition/kms-key-service\\.ts$",
    ),
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    exclude: { path: "^(node_modules|\\.snapferry|cdk\\.out)|\\.test\\.ts$" },
    tsConfig: { fileName: "tsconfig.json" },
    parser: "swc",
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "require", "node", "default", "types"],
    },
  },
};
