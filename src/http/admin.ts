/** `/admin`: everything behind the admin key. */
import { Hono } from 'hono'
import type { Models } from '../models.ts'
import { adminKeys } from './admin-keys.ts'
import { adminLimits } from './admin-limits.ts'
import { adminPricing } from './admin-pricing.ts'
import { type AdminUsageDeps, adminUsage, adminUserUsage } from './admin-usage.ts'
import { type AdminUsersDeps, adminUsers } from './admin-users.ts'
import type { AppEnv } from './env.ts'

export type AdminDeps = AdminUsersDeps & AdminUsageDeps & { models: Models; steady: () => number }

export const adminRoutes = (deps: AdminDeps) =>
  new Hono<AppEnv>()
    .route('/users', adminUsers(deps))
    .route('/users', adminKeys(deps))
    .route('/users', adminLimits(deps))
    .route('/users', adminUserUsage(deps))
    .route('/usage', adminUsage(deps))
    .route('/pricing', adminPricing(deps))
