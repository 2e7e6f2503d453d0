// Every shape of the API, and its lists of words. Made by scripts/generate.py.

export const FUNCTION_SETTINGS = ["name", "handler", "runtime", "description", "memory_limit_mb", "cpu_limit_percent", "timeout_seconds", "environment", "min_instances", "max_instances", "cleanup_on_exit", "working_directory"] as const;

export const SCOPES = ["read", "invoke", "write", "admin", "operator"] as const;

export const STATUSES = ["queued", "running", "success", "failed", "timeout", "oom", "cancelled", "error", "interrupted"] as const;

export const SOURCES = ["sync", "async", "schedule", "url", "redrive", "replay", "destination"] as const;

export const SECRET_NAME = "^(?!.*(?:PUBLIC_KEY|_FILE|_PATH|_DIR)$).*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN(?!S|IZ)|CREDENTIAL|API_?KEY|WEBHOOK|_PWD$|CONN(?:ECTION)?_STR|(?:^|_)(?:KEY|KEYS|PASS|AUTH|DSN|PAT|JWT|COOKIE|SALT|CREDS)(?:_|$))";

export const SECRET_VALUE = "://[^/\\s:@]*:[^/\\s@]+@|(?:^|[?&;\\s])(?:password|pwd|secret|token|sig|signature|api[-_]?key|access[-_]?key|accountkey|sharedaccesskey|access_token)\\s*=\\s*[^\\s&;]|^(?:sk-|[rs]k_live_|[rs]k_test_|whsec_|quilt_sk_|gh[opsur]_|github_pat_|glpat-|xox[a-z]-|npm_|hf_|pypi-|SG\\.|dckr_pat_|AIza|A[KS]IA)[\\w.-]{10,}|^eyJ[\\w-]+\\.[\\w-]+\\.|-----BEGIN [A-Z ]*PRIVATE KEY|^(?:bearer|basic) [\\w+/=.~-]{8,}$|^(?=.*\\d)(?=.*[A-Za-z])[A-Za-z0-9+=][A-Za-z0-9+/=]{31,}$";

export const MASK = "***";

export const HTTP_ERRORS = 500;

export interface Alias {
  name: string;
  version: number;
  also: AliasShare | null;
  rollback_on?: RollbackRule | null;
  rolled_back?: string | null;
  default?: boolean;
  updated_at: number;
}

export interface AliasList {
  aliases: Alias[];
}

export interface AliasShare {
  version: number;
  weight: number;
}

export interface AsyncPolicy {
  max_attempts: number;
  backoff_seconds: Backoff;
  retry_on: string[];
  max_age_seconds: number;
  max_queued: number;
  max_concurrency: number | null;
  on_success: Destination | null;
  on_failure: Destination | null;
}

export interface Attempt {
  attempt: number;
  status: string;
  started_at: number | null;
  ended_at: number | null;
  duration_ms: number | null;
  exit_code: number | null;
  error_message: string | null;
  execution_node_id: string;
  cold_start: boolean;
  version: number | null;
  stdout?: string | null;
  stderr?: string | null;
  end_cause?: EndCause | null;
}

export interface AttemptList {
  attempts: Attempt[];
}

export interface AuditEntry {
  id: string;
  at: number;
  tenant_id: string;
  credential: string;
  action: string;
  object_id: string | null;
  status: number;
  error_code: string | null;
  address: string;
  request_id: string;
  note?: string | null;
  object_name?: string | null;
}

export interface AuditPage {
  entries: AuditEntry[];
  next_cursor: string | null;
}

export interface Backoff {
  first?: number;
  factor?: number;
  most?: number;
  jitter?: number;
}

export interface BlockedDestination {
  address: string;
  port: number;
  protocol: string;
}

export interface Check {
  ok: boolean;
  reason: string;
}

export interface CorsRule {
  allow_origins?: string[];
  allow_methods?: string[];
  allow_headers?: string[];
  expose_headers?: string[];
  allow_credentials?: boolean;
  max_age_seconds?: number;
}

export interface CreatedFunction {
  function_id: string;
  name: string;
  state: string;
  version: number;
}

export interface CreatedKey {
  id: string;
  tenant_id: string;
  scope: string;
  prefix: string;
  created_at: number;
  expires_at: number | null;
  revoked_at: number | null;
  label?: string | null;
  key: string;
}

export interface DeadLetter {
  invocation_id: string;
  function_id?: string | null;
  function_name?: string | null;
  reason: string;
  died_at: number;
  status: string;
  attempts: number;
  error_message: string | null;
  source: string;
  end_cause?: EndCause | null;
}

export interface DeadLetterPage {
  dead_letters: DeadLetter[];
  next_cursor: string | null;
}

export interface Delivery {
  delivery_id: string;
  function_id: string;
  function_name?: string | null;
  invocation_id: string;
  policy_field: string;
  status: string;
  attempts: number;
  next_attempt_at: number | null;
  http_status: number | null;
  error_message: string | null;
  ended_at: number | null;
  end_cause?: EndCause | null;
}

export interface DeliveryPage {
  deliveries: Delivery[];
  next_cursor: string | null;
}

export interface Destination {
  function?: string | null;
  url?: string | null;
  secret?: string | null;
}

export interface DoctorReport {
  findings: Finding[];
  protections: Record<string, string>;
}

export interface Egress {
  function_id: string;
  network: string;
  blocked_count: number;
  blocked_destinations?: BlockedDestination[];
}

export interface EndCause {
  cause: string;
  type?: string | null;
  message?: string | null;
  file?: string | null;
  line?: number | null;
  code?: number | null;
  signal?: number;
  limit_seconds?: number | null;
  from_outside?: boolean;
  limit_bytes?: number | null;
  peak_bytes?: number | null;
  status?: number | null;
  phase?: string;
  reason?: string;
  host?: string | null;
  port?: number | null;
  by?: string;
  bytes?: number;
  kind?: string;
}

export interface ErrorBody {
  error: string;
  error_code: string;
  request_id: string;
  details?: ErrorDetails | null;
  retry_after?: number | null;
  hint?: string | null;
}

export interface ErrorDetails {
  field?: string | null;
  expected?: unknown;
  received?: unknown;
  example?: unknown;
  state?: string | null;
  exit_code?: number | null;
  see?: SeeAlso | null;
}

export interface ExampleList {
  examples: Record<string, unknown>[];
}

export interface Finding {
  name: string;
  level: string;
  sentence: string;
  advice: string | null;
}

export interface Function {
  id: string;
  tenant_id: string;
  cluster_id: string | null;
  owner_node_id: string;
  name: string;
  description: string | null;
  handler: string;
  runtime: string;
  state: string;
  current_version: number;
  memory_limit_mb: number;
  cpu_limit_percent: number;
  timeout_seconds: number;
  environment: Record<string, string>;
  min_instances: number;
  max_instances: number;
  cleanup_on_exit: boolean;
  working_directory: string | null;
  created_at: number;
  updated_at: number;
  last_invoked_at: number | null;
  invocation_count: number;
  error_count: number;
  error_message: string | null;
  note?: string | null;
  runtime_outdated?: boolean;
  default_alias?: Alias;
  failed_version?: number;
  error_sentence?: string;
  error_output?: string;
}

export interface FunctionChanges {
  name?: string;
  handler?: string;
  runtime?: string;
  description?: string | null;
  memory_limit_mb?: number;
  cpu_limit_percent?: number;
  timeout_seconds?: number;
  environment?: Record<string, string>;
  min_instances?: number;
  max_instances?: number;
  cleanup_on_exit?: boolean;
  working_directory?: string | null;
}

export interface FunctionOnNode {
  function_id: string;
  function_name: string;
  tenant_id: string;
  version: number;
  ready_instances: number;
  busy_instances: number;
  waiting_calls: number;
}

export interface FunctionPage {
  functions: Function[];
  next_cursor: string | null;
}

export interface FunctionQueue {
  function_id?: string | null;
  function_name?: string | null;
  queued: number;
  delayed: number;
  running: number;
  oldest_age_seconds: number | null;
  dead_letters: number;
}

export interface FunctionStats {
  function_id: string;
  calls: number;
  errors: number;
  cold_starts: number;
  p50_ms: number | null;
  p99_ms: number | null;
}

export interface FunctionStatsPage {
  functions: FunctionStats[];
  next_cursor: string | null;
}

export interface FunctionSummary {
  id: string;
  tenant_id: string;
  cluster_id: string | null;
  owner_node_id: string;
  name: string;
  description: string | null;
  runtime: string;
  state: string;
  current_version: number;
  memory_limit_mb: number;
  cpu_limit_percent: number;
  timeout_seconds: number;
  min_instances: number;
  max_instances: number;
  cleanup_on_exit: boolean;
  working_directory: string | null;
  created_at: number;
  updated_at: number;
  last_invoked_at: number | null;
  invocation_count: number;
  error_count: number;
  error_message: string | null;
  default_alias?: Alias;
}

export interface FunctionSummaryPage {
  functions: FunctionSummary[];
  next_cursor: string | null;
}

export interface FunctionUrl {
  auth: string;
  webhook: WebhookRule | null;
  cors: CorsRule | null;
  methods: string[] | null;
  stream: boolean;
  path: string;
  host: string | null;
  refused?: Record<string, number>;
  last_refused_at?: number | null;
}

export interface Health {
  status: string;
  ready: boolean;
  transport: string;
  durability: string;
  checks: Record<string, Check>;
  protections: Record<string, string>;
}

export interface Help {
  title: string;
  routes: Record<string, unknown>[];
  debugging: string[];
  common_mistakes: string[];
}

export interface Image {
  digest: string;
  files: number;
  size_bytes: number;
  environment: Record<string, string>;
  interpreters: Record<string, string>;
}

export interface Instance {
  function_id: string;
  function_name: string;
  tenant_id: string;
  node_id: string;
  number: number;
  version: number;
  state: string;
  memory_mib: number;
  age_seconds: number;
  state_seconds: number;
  start_reason: string;
}

export interface InstanceList {
  instances: Instance[];
  total_count: number;
  prewarmed_count: number;
  waiting_calls: number;
  queued_calls: number;
  memory: Record<string, number>;
}

export interface Invocation {
  invocation_id: string;
  function_id: string;
  function_name: string;
  execution_node_id: string;
  status: string;
  started_at: number | null;
  ended_at: number | null;
  duration_ms: number | null;
  exit_code: number | null;
  stdout: string;
  stderr: string;
  error_message: string | null;
  cold_start: boolean;
  http_status?: number;
  attempt?: number;
}

export interface InvocationInput {
  payload: string | null;
  environment: Record<string, string> | null;
  version: number | null;
  source: string;
  caller: string;
  parent_invocation_id: string | null;
}

export interface InvocationPage {
  invocations: Invocation[];
  next_cursor: string | null;
}

export interface InvocationSummary {
  invocation_id: string;
  function_id: string;
  function_name: string;
  execution_node_id: string;
  status: string;
  started_at: number | null;
  ended_at: number | null;
  duration_ms: number | null;
  exit_code: number | null;
  error_message: string | null;
  cold_start: boolean;
  version: number | null;
  source: string;
  attempt: number;
  due_at: number | null;
  parent_invocation_id: string | null;
  origin_invocation_id: string | null;
  http_status?: number | null;
  end_cause?: EndCause | null;
}

export interface InvocationSummaryPage {
  invocations: InvocationSummary[];
  next_cursor: string | null;
}

export interface Key {
  id: string;
  tenant_id: string;
  scope: string;
  prefix: string;
  created_at: number;
  expires_at: number | null;
  revoked_at: number | null;
  label?: string | null;
}

export interface KeyList {
  keys: Key[];
  next_cursor?: string | null;
}

export interface ListedPool {
  function_id: string;
  warming_count: number;
  ready_count: number;
  busy_count: number;
  total_count: number;
  parked_count: number;
  memory_mib?: number;
}

export interface Liveness {
  status?: string;
}

export interface NewAlias {
  version: number;
  also?: AliasShare | null;
  rollback_on?: RollbackRule | null;
  default?: boolean | null;
}

export interface NewAsyncPolicy {
  max_attempts?: number;
  backoff_seconds?: Backoff;
  retry_on?: ("failed" | "timeout" | "oom" | "error" | "interrupted")[];
  max_age_seconds?: number;
  max_queued?: number;
  max_concurrency?: number | null;
  on_success?: NewDestination | null;
  on_failure?: NewDestination | null;
}

export interface NewDestination {
  function?: string | null;
  url?: string | null;
  secret?: string | null;
}

export interface NewFunction {
  name: string;
  handler: string;
  runtime?: string;
  cluster_id?: string | null;
  description?: string | null;
  memory_limit_mb?: number;
  cpu_limit_percent?: number;
  timeout_seconds?: number;
  environment?: Record<string, string>;
  min_instances?: number;
  max_instances?: number;
  cleanup_on_exit?: boolean;
  working_directory?: string | null;
}

export interface NewFunctionUrl {
  auth?: "key" | "none" | "webhook";
  webhook?: WebhookRule | null;
  cors?: CorsRule | null;
  methods?: string[] | null;
  stream?: boolean;
}

export interface NewInvocation {
  payload?: string | null;
  environment?: Record<string, string> | null;
  timeout_seconds?: number | null;
}

export interface NewKey {
  tenant?: string | null;
  scope?: "read" | "invoke" | "write" | "admin" | "operator" | null;
  expires_seconds?: number | null;
  label?: string | null;
}

export interface NewQuota {
  calls_in_flight?: number | null;
  calls_per_second?: number | null;
  functions?: number | null;
  image_bytes?: number | null;
  gb_seconds_per_day?: number | null;
}

export interface NewRuntime {
  name: string;
  kind: "shell" | "python" | "node" | "custom" | "server";
  image?: string | null;
  base_image?: string | null;
  packages?: string | null;
  packages_key?: string | null;
  command?: string[] | null;
  environment?: Record<string, string>;
  isolation?: "crun" | "gvisor";
  network?: "none" | "egress";
  writable_paths?: string[];
  process_limit?: number | null;
  tmp_limit_mb?: number | null;
  file_limit_mb?: number | null;
  open_files_limit?: number | null;
  shared?: boolean;
}

export interface NewSchedule {
  name: string;
  function: string;
  cron?: string | null;
  every_seconds?: number | null;
  timezone?: string;
  payload?: string | null;
  environment?: Record<string, string> | null;
  overlap?: "allow" | "skip" | "queue";
  missed?: "skip" | "run_once";
  jitter_seconds?: number;
  enabled?: boolean;
}

export interface Node {
  name: string;
  state: string;
  presence: string;
  is_own: boolean;
  epoch: number;
  version: string;
  address: string;
  beat_age_seconds: number;
  running_calls: number;
  waiting_calls: number;
  memory_free_mib: number;
  ready_instances: number;
  busy_instances: number;
  lag_seconds: number;
  sole_images: number;
  function_count: number;
  is_silent?: boolean;
  functions?: FunctionOnNode[] | null;
}

export interface NodeList {
  nodes: Node[];
}

export interface Operation {
  operation_id: string;
  operation_type: string;
  action_id: string;
  status: string;
  reason_code: string | null;
  reason_message: string | null;
  retryable: boolean;
}

export interface PauseResult {
  success?: boolean;
  message?: string | null;
}

export interface Phase {
  name: string;
  microseconds: number;
}

export interface Pool {
  function_id: string;
  warming_count: number;
  ready_count: number;
  busy_count: number;
  total_count: number;
}

export interface PoolList {
  pools: ListedPool[];
}

export interface PoolStats {
  total_count: number;
  warming_count: number;
  ready_count: number;
  busy_count: number;
  recycling_count: number;
  terminating_count: number;
  total_containers: number;
  warming_containers: number;
  ready_containers: number;
  busy_containers: number;
  recycling_containers: number;
  terminating_containers: number;
}

export interface PoolTarget {
  min_instances: number;
  max_instances: number;
}

export interface QueuePage {
  queues: FunctionQueue[];
  next_cursor: string | null;
}

export interface Quota {
  tenant_id: string;
  known: boolean;
  calls_in_flight: number;
  calls_per_second: number;
  functions: number;
  image_bytes: number;
  gb_seconds_per_day: number;
  own: string[];
  used: QuotaUse;
  disabled?: boolean;
}

export interface QuotaUse {
  calls_in_flight: number;
  functions: number;
  image_bytes: number;
  gb_seconds_today: number;
}

export interface RecordPolicy {
  keep_input?: "async" | "all" | "none";
}

export interface Redrive {
  invocation_ids?: string[] | null;
  all?: boolean;
}

export interface RedriveResult {
  redriven: number;
  invocation_ids: string[];
  remaining: number;
}

export interface Replay {
  version?: number | null;
  mode?: "sync" | "async";
  payload?: string | null;
}

export interface Rollback {
  version: number;
}

export interface RollbackRule {
  error_rate?: number | null;
  p99_ms?: number | null;
  within_s?: number;
}

export interface Runtime {
  name: string;
  id: string;
  kind: string;
  image: string | null;
  base_image: string | null;
  interpreter: string;
  image_digest: string;
  command: string[];
  environment: Record<string, string>;
  isolation: string;
  network: string;
  writable_paths: string[];
  built_in: boolean;
  shared: boolean;
  created_at: number;
  process_limit?: number | null;
  tmp_limit_mb?: number | null;
  file_limit_mb?: number | null;
  open_files_limit?: number | null;
  packages?: string | null;
  packages_key?: string | null;
}

export interface RuntimeFile {
  path: string;
  size_bytes: number;
  is_link: boolean;
  is_executable: boolean;
}

export interface RuntimeFilePage {
  files: RuntimeFile[];
  next_cursor: string | null;
}

export interface RuntimeList {
  runtimes: Runtime[];
  next_cursor?: string | null;
}

export interface RuntimePackage {
  kind: string;
  name: string;
  version: string;
}

export interface RuntimePackageList {
  packages: RuntimePackage[];
  is_complete: boolean;
}

export interface Scaling {
  function_id: string;
  min_instances: number;
  max_instances: number;
}

export interface Schedule {
  id: string;
  name: string;
  function: string;
  cron: string | null;
  every_seconds: number | null;
  timezone: string;
  payload: string | null;
  environment: Record<string, string> | null;
  overlap: string;
  missed: string;
  jitter_seconds: number;
  enabled: boolean;
  created_at: number;
  updated_at: number;
  next_runs: number[];
  last_run: ScheduleRun | null;
  fired_count: number;
  skipped_count: number;
  missed_count: number;
  in_words?: string | null;
}

export interface ScheduleChanges {
  function?: string;
  cron?: string | null;
  every_seconds?: number | null;
  timezone?: string;
  payload?: string | null;
  environment?: Record<string, string> | null;
  overlap?: "allow" | "skip" | "queue";
  missed?: "skip" | "run_once";
  jitter_seconds?: number;
  enabled?: boolean;
}

export interface SchedulePage {
  schedules: Schedule[];
  next_cursor: string | null;
}

export interface ScheduleRun {
  due_at: number;
  outcome: string;
  invocation_id: string | null;
  status: string | null;
  reason: string | null;
  missed: number;
  manual: boolean;
  decided_at: number;
}

export interface ScheduleRunPage {
  runs: ScheduleRun[];
  next_cursor: string | null;
}

export interface SeeAlso {
  operation: string;
  text: string;
}

export interface Series {
  function_id: string;
  start: number;
  end: number;
  step_seconds: number;
  points: SeriesPoint[];
}

export interface SeriesPoint {
  start: number;
  calls: number;
  errors: number;
  statuses: Record<string, number>;
  cold_starts: number;
  p50_ms: number | null;
  p99_ms: number | null;
}

export interface SystemInfo {
  version: string;
  node_id: string;
  cgroup_mode: string;
  oci_runtime: string;
  durability: string;
  protections: Record<string, string>;
  interpreters: Record<string, string>;
  limits: Record<string, number>;
  memory: Record<string, number>;
  tenant_id?: string | null;
  scope?: string | null;
  started_at?: number | null;
  architecture?: string | null;
  libc?: string | null;
}

export interface Tenant {
  tenant_id: string;
  disabled: boolean;
  functions: number;
  valid_keys: number;
  calls_in_flight: number;
}

export interface TenantPage {
  tenants: Tenant[];
  next_cursor: string | null;
}

export interface TimedAttempt {
  attempt: number;
  status: string;
  started_at_ms: number | null;
  duration_ms: number | null;
  cold_start: boolean;
  version: number | null;
  execution_node_id: string;
}

export interface Timeline {
  invocation_id: string;
  cold_start: boolean;
  cold_reason: string | null;
  phases: Phase[];
  total_microseconds: number;
  status?: string | null;
  accepted_at_ms?: number | null;
  version?: number | null;
  source?: string | null;
  due_at?: number | null;
  parent_invocation_id?: string | null;
  parent_function_id?: string | null;
  origin_invocation_id?: string | null;
  children?: InvocationSummary[];
  environment_names?: string[];
  attempts?: TimedAttempt[];
  has_input?: boolean;
  http_status?: number | null;
  end_cause?: EndCause | null;
}

export interface Usage {
  start: number;
  end: number;
  step: string;
  rows: UsageRow[];
  total: UsageSums;
}

export interface UsageRow {
  calls: number;
  errors: number;
  statuses: Record<string, number>;
  cold_starts: number;
  gb_seconds: number;
  cpu_seconds: number;
  egress_refused: number;
  queued: number;
  start: number;
  function_id: string | null;
  function_name: string | null;
}

export interface UsageSums {
  calls: number;
  errors: number;
  statuses: Record<string, number>;
  cold_starts: number;
  gb_seconds: number;
  cpu_seconds: number;
  egress_refused: number;
  queued: number;
}

export interface Version {
  id: string;
  function_id: string;
  version: number;
  handler: string;
  runtime: string;
  environment: Record<string, string>;
  created_at: number;
  is_active: boolean;
  description: string | null;
  working_directory: string | null;
  memory_limit_mb: number;
  cpu_limit_percent: number;
  timeout_seconds: number;
  cleanup_on_exit: boolean;
  image_digest: string;
}

export interface VersionPage {
  versions: Version[];
  next_cursor?: string | null;
}

export interface WebhookRule {
  scheme: "standard" | "github" | "stripe";
  secret?: string | null;
}

export interface Whoami {
  tenant_id: string;
  scope: string;
  credential: string;
  expires_at: number | null;
  needs_credential: boolean;
  version: string;
  node_id: string;
  offers: string[];
}
