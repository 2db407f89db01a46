# Runs one Ruby script and ends. Arguments: descriptors of the request and of the reply.
# A script sees `payload`, and what it returns, or the value of its last line, is its output.
require 'json'

module Flowork
  FILE = 'script.rb'.freeze

  def self.answer(reply, value)
    out = IO.for_fd(reply, 'w')
    out.puts(value)
    out.close
  end

  def self.fail(reply, error)
    trace = (error.backtrace || []).select { |line| line.start_with?(FILE) }
    line = (error.message + trace.first.to_s)[/script\.rb:(\d+)/, 1]
    $stderr.puts "#{error.class}: #{error.message}", trace
    said = "#{error.class}: #{error.message}#{" (line #{line})" if line}"
    answer(reply, JSON.generate({ ok: false, error: said.scrub, syntax: error.is_a?(SyntaxError) }))
    Process.exit!(1)
  end

  # A lambda, because `return` ends it; the script's first line is its line 1.
  def self.run(code, payload)
    eval("lambda do |payload|\n#{code}\nend", TOPLEVEL_BINDING.dup, FILE, 0).call(payload)
  end

  def self.json(output)
    JSON.generate({ ok: true, output: output })
  rescue JSON::GeneratorError, JSON::NestingError => e
    raise TypeError, "what the script returned is not JSON: #{e.message}"
  end

  def self.main(request, reply)
    job = JSON.parse(IO.for_fd(request, 'r:UTF-8').read, max_nesting: false)
    answer(reply, json(run(job['code'], job['payload'])))
  rescue SystemExit
    raise
  rescue Exception => e # a script may raise anything
    $stdout.flush
    self.fail(reply, e)
  end
end

$stdout.sync = true
$PROGRAM_NAME = 'script.rb'
Flowork.main(*ARGV.slice!(0, 2).map(&:to_i))
