// Runs one JavaScript script and ends. Arguments: descriptors of the request and of the reply.
// A script sees `payload` and `require`, may `await`, and what it returns is its output.
'use strict'
const fs = require('fs')
const vm = require('vm')
const { createRequire } = require('module')

const [request, reply] = process.argv.slice(2).map(Number)
process.argv.length = 1

const FILE = 'script.js'
const HEAD = '(async function (payload, require) {'

function answer (value) {
  const data = Buffer.from(JSON.stringify(value) + '\n')
  for (let at = 0; at < data.length;) at += fs.writeSync(reply, data, at)
}

function fail (error) {
  const thrown = error instanceof Error || (error && error.stack)
  const stack = thrown ? String(error.stack) : String(error)
  const place = stack.match(/script\.js:(\d+)/)
  process.stderr.write(stack.split('\n').filter(line => !/node:|node\.js:|runners\//.test(line)).join('\n') + '\n')
  const said = thrown ? `${error.name}: ${error.message}` : `the script threw ${String(error)}`
  answer({ ok: false, error: said + (place ? ` (line ${place[1]})` : ''), syntax: error instanceof SyntaxError })
  process.exit(1)
}

function output (value) {
  let json
  try {
    json = JSON.stringify(value)
  } catch (error) {
    throw new TypeError(`what the script returned is not JSON: ${error.message}`)
  }
  return json === undefined ? null : JSON.parse(json)
}

process.on('uncaughtException', fail)
const { code, payload } = JSON.parse(fs.readFileSync(request, 'utf8'))
fs.closeSync(request)
try {
  // The column of the first line is moved back by what stands before the script.
  const body = new vm.Script(`${HEAD}${code}\n})`, { filename: FILE, columnOffset: -HEAD.length })
  body.runInThisContext()(payload, createRequire(process.cwd() + '/'))
    .then(value => { answer({ ok: true, output: output(value) }); process.exit(0) })
    .catch(fail)
} catch (error) {
  fail(error)
}
