// Copies one file over hyperdht; see small_program.py. The words before its own are the bootstrap node's HOST:PORT.
//   bootstrap HOST PORT
//   HOST:PORT receive ADDRESS FILE
//   HOST:PORT send KEY FILE
'use strict'

const fs = require('fs')
const DHT = require('hyperdht')

const CHUNK = 1 << 20 // bytes
const WHOLE = Buffer.from('whole')
const LINGER = 500 // milliseconds in which the other side learns that we go

function fail (error) {
  console.error(error)
  process.exit(1)
}

async function bootstrap (host, port) {
  const node = DHT.bootstrapper(Number(port), host)
  await node.fullyBootstrapped()
  console.log('ready')
}

// On the stream: the size of the file (8 bytes), the file; then, the other way, WHOLE.
async function receive (node, address, path) {
  const server = node.createServer((socket) => {
    const file = fs.createWriteStream(path, { highWaterMark: CHUNK })
    let left = null
    let isWhole = false
    socket.on('data', (data) => {
      if (left === null) {
        left = Number(data.readBigUInt64BE())
        data = data.subarray(8)
      }
      left -= data.length
      if (!file.write(data)) {
        socket.pause()
        file.once('drain', () => socket.resume())
      }
      if (left === 0) {
        file.end(() => {
          isWhole = true
          socket.write(WHOLE)
        })
      }
    })
    socket.on('error', (error) => (isWhole ? process.exit(0) : fail(error)))
    socket.on('close', () => process.exit(isWhole ? 0 : 1))
  })
  await server.listen(DHT.keyPair())
  console.log('ready ' + server.publicKey.toString('hex'))
}

function send (node, key, path) {
  const socket = node.connect(Buffer.from(key, 'hex'))
  socket.on('error', fail)
  socket.on('open', () => {
    const size = Buffer.alloc(8)
    size.writeBigUInt64BE(BigInt(fs.statSync(path).size))
    socket.write(size)
    fs.createReadStream(path, { highWaterMark: CHUNK }).pipe(socket, { end: false })
  })
  socket.on('data', () => { // WHOLE
    socket.end()
    setTimeout(() => process.exit(0), LINGER)
  })
}

const [first, ...rest] = process.argv.slice(2)
if (first === 'bootstrap') {
  bootstrap(...rest).catch(fail)
} else {
  const node = new DHT({ bootstrap: [first], firewalled: false }) // the addresses are public
  const [verb, subject, path] = rest
  Promise.resolve(verb === 'receive' ? receive(node, subject, path) : send(node, subject, path)).catch(fail)
}
