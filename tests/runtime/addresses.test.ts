import { describe, expect, test } from 'bun:test'
import { isPublicAddress } from '../../src/runtime/addresses.ts'

const refused = {
  'IPv4 this network': ['0.0.0.0', '0.1.2.3'],
  'IPv4 private': ['10.0.0.1', '10.255.255.255', '172.16.0.1', '172.31.255.255', '192.168.1.1'],
  'IPv4 loopback': ['127.0.0.1', '127.1.2.3', '127.255.255.255'],
  'IPv4 link-local, cloud metadata': ['169.254.169.254', '169.254.0.1'],
  'IPv4 carrier-grade NAT': ['100.64.0.1', '100.127.255.255'],
  'IPv4 multicast, reserved, broadcast': ['224.0.0.1', '239.255.255.255', '240.0.0.1', '255.255.255.255'],
  'IPv4 documentation and benchmarks': [
    '192.0.2.1',
    '198.51.100.1',
    '203.0.113.9',
    '198.18.0.1',
    '192.0.0.8',
  ],
  'IPv6 unspecified and loopback': ['::', '::1', '0:0:0:0:0:0:0:1'],
  'IPv6 link-local, with a zone too': ['fe80::1', 'fe80::1%eth0', '2606:4700::1%eth0'],
  'IPv6 unique local and site-local': ['fc00::1', 'fd12:3456::1', 'fec0::1'],
  'IPv6 multicast': ['ff02::1', 'ff0e::1'],
  'IPv4 mapped': ['::ffff:127.0.0.1', '::ffff:7f00:1', '::ffff:8.8.8.8'],
  'IPv4 compatible': ['::127.0.0.1', '::7f00:1', '::808:808'],
  'IPv4 translated': ['::ffff:0:127.0.0.1'],
  NAT64: ['64:ff9b::7f00:1', '64:ff9b::8.8.8.8', '64:ff9b:1::1'],
  '6to4': ['2002:7f00:1::', '2002:c0a8:101::1'],
  Teredo: ['2001:0:4136:e378:8000:63bf:3fff:fdd2'],
  'IPv6 documentation, discard, ORCHID': ['2001:db8::1', '3fff::1', '100::1', '2001:20::1'],
  'odd spellings': [
    '0x7f.1',
    '2130706433',
    '127.1',
    '0177.0.0.1',
    '127.0.0.01',
    '8.8.8',
    '8.8.8.8 ',
    '0x08.8.8.8',
  ],
  'no address': ['', 'localhost', 'example.com', '[2606:4700::1]', '1.2.3.4.5', '8.8.8.8:80', '::g'],
}

describe('an address that is not of the public internet is refused', () => {
  for (const [kind, addresses] of Object.entries(refused))
    test(kind, () => {
      for (const address of addresses) expect([address, isPublicAddress(address)]).toEqual([address, false])
    })
})

test('public addresses of both families are accepted, up to the edges of the refused ranges', () => {
  const accepted = [
    ...['8.8.8.8', '1.1.1.1', '9.255.255.255', '11.0.0.0', '172.15.255.255', '172.32.0.0', '100.63.255.255'],
    ...['100.128.0.0', '169.253.255.255', '126.255.255.255', '128.0.0.0', '223.255.255.255'],
    ...['2606:4700:4700::1111', '2a00:1450:4001:81b::200e', '2400:cb00::1', '2003::1'],
  ]
  for (const address of accepted) expect([address, isPublicAddress(address)]).toEqual([address, true])
})
