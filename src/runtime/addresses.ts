/** Which network addresses a stranger's URL may lead the proxy to. */
import ipaddr from 'ipaddr.js'

/**
 * Global unicast, RFC 4291. Everything outside it carries something else: `::/96` and `64:ff9b::/96` hold an IPv4
 * address that a gateway would reach, `fc00::/7` and `fe80::/10` are local.
 */
const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3')

/**
 * True for an address of the public internet, in its ordinary spelling only (`127.0.0.1`, `2606:4700::1`): everything
 * private, loopback, link-local, shared (CGNAT), multicast, reserved or unspecified is false, and so is every IPv6
 * address that embeds an IPv4 one (mapped, NAT64, 6to4, Teredo), whatever that one is.
 */
export const isPublicAddress = (address: string): boolean => {
  if (ipaddr.IPv4.isValidFourPartDecimal(address)) return ipaddr.IPv4.parse(address).range() === 'unicast'
  if (!ipaddr.IPv6.isValid(address) || address.includes('%')) return false
  const parsed = ipaddr.IPv6.parse(address)
  return parsed.match(globalUnicast) && parsed.range() === 'unicast'
}
