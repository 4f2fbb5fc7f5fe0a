CREATE TABLE `api_keys` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`user_number` integer NOT NULL,
	`hash` text,
	`prefix` text NOT NULL,
	`name` text,
	`models` text,
	`created_at` integer NOT NULL,
	`expires_at` integer,
	`revoked_at` integer,
	`last_used_at` integer,
	FOREIGN KEY (`user_number`) REFERENCES `user_numbers`(`number`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `api_keys_hash_unique` ON `api_keys` (`hash`);--> statement-breakpoint
CREATE INDEX `api_keys_user` ON `api_keys` (`user_number`);--> statement-breakpoint
CREATE TABLE `crash_grants` (
	`id` integer PRIMARY KEY NOT NULL,
	`user_number` integer NOT NULL,
	`at_ms` integer NOT NULL,
	`tokens` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `model_stats` (
	`model_id` integer PRIMARY KEY NOT NULL,
	`learnt` text NOT NULL
);
--> statement-breakpoint
CREATE TABLE `models` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`name` text NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `models_name_unique` ON `models` (`name`);--> statement-breakpoint
CREATE TABLE `open_requests` (
	`id` integer PRIMARY KEY NOT NULL,
	`user_number` integer NOT NULL,
	`key_id` integer NOT NULL,
	`model_id` integer NOT NULL,
	`kind` integer NOT NULL,
	`admitted_after_ms` integer NOT NULL,
	`queue_ms` integer NOT NULL,
	`input_price` integer NOT NULL,
	`output_price` integer NOT NULL,
	`prompt_promised` integer NOT NULL,
	`completion_promised` integer NOT NULL,
	`prompt_counted` integer NOT NULL,
	`completion_counted` integer NOT NULL,
	`checkpoint_ms` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `price_history` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`model` text NOT NULL,
	`input_price` integer,
	`output_price` integer,
	`changed_by` text NOT NULL,
	`changed_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `price_history_model` ON `price_history` (`model`);--> statement-breakpoint
CREATE TABLE `prices` (
	`model` text PRIMARY KEY NOT NULL,
	`input_price` integer NOT NULL,
	`output_price` integer NOT NULL,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `prompt_previews` (
	`id` integer PRIMARY KEY NOT NULL,
	`user_number` integer NOT NULL,
	`text` text NOT NULL
);
--> statement-breakpoint
CREATE INDEX `prompt_previews_user` ON `prompt_previews` (`user_number`);--> statement-breakpoint
CREATE TABLE `rate_limits` (
	`user_id` text PRIMARY KEY NOT NULL,
	`requests_per_minute` integer,
	`requests_per_day` integer,
	`tokens_per_minute` integer,
	`tokens_per_day` integer,
	`total_token_limit` integer,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`user_id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `usage` (
	`id` integer PRIMARY KEY NOT NULL,
	`user_number` integer NOT NULL,
	`key_id` integer NOT NULL,
	`model_id` integer NOT NULL,
	`kind` integer NOT NULL,
	`outcome` integer NOT NULL,
	`basis` integer NOT NULL,
	`prompt_tokens` integer NOT NULL,
	`completion_tokens` integer NOT NULL,
	`cost_micro` integer NOT NULL,
	`cost_pico` integer NOT NULL,
	`admitted_after_ms` integer NOT NULL,
	`queue_ms` integer NOT NULL,
	`first_token_ms` integer,
	`duration_ms` integer NOT NULL,
	`load_us` integer NOT NULL,
	`prompt_eval_us` integer NOT NULL,
	`eval_us` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `usage_user` ON `usage` (`user_number`);--> statement-breakpoint
CREATE TABLE `usage_archive` (
	`hour` integer NOT NULL,
	`user_number` integer NOT NULL,
	`key_id` integer NOT NULL,
	`model_id` integer NOT NULL,
	`outcome` integer NOT NULL,
	`requests` integer NOT NULL,
	`prompt_tokens` integer NOT NULL,
	`completion_tokens` integer NOT NULL,
	`cost_micro` integer NOT NULL,
	`cost_pico` integer NOT NULL,
	`gpu_us` integer NOT NULL,
	PRIMARY KEY(`hour`, `user_number`, `key_id`, `model_id`, `outcome`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `usage_by_day` (
	`day` integer NOT NULL,
	`user_number` integer NOT NULL,
	`model_id` integer NOT NULL,
	`requests` integer NOT NULL,
	`prompt_tokens` integer NOT NULL,
	`completion_tokens` integer NOT NULL,
	`cost_micro` integer NOT NULL,
	`cost_pico` integer NOT NULL,
	`gpu_us` integer NOT NULL,
	PRIMARY KEY(`day`, `user_number`, `model_id`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `usage_by_hour` (
	`hour` integer NOT NULL,
	`model_id` integer NOT NULL,
	`requests` integer NOT NULL,
	`prompt_tokens` integer NOT NULL,
	`completion_tokens` integer NOT NULL,
	`cost_micro` integer NOT NULL,
	`cost_pico` integer NOT NULL,
	`gpu_us` integer NOT NULL,
	`last_end_ms` integer NOT NULL,
	PRIMARY KEY(`hour`, `model_id`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `usage_by_user` (
	`user_number` integer NOT NULL,
	`model_id` integer NOT NULL,
	`requests` integer NOT NULL,
	`prompt_tokens` integer NOT NULL,
	`completion_tokens` integer NOT NULL,
	`cost_micro` integer NOT NULL,
	`cost_pico` integer NOT NULL,
	`gpu_us` integer NOT NULL,
	PRIMARY KEY(`user_number`, `model_id`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `user_numbers` (
	`number` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`deleted_at` integer
);
--> statement-breakpoint
CREATE TABLE `users` (
	`user_id` text PRIMARY KEY NOT NULL,
	`number` integer NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`number`) REFERENCES `user_numbers`(`number`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `users_number_unique` ON `users` (`number`);