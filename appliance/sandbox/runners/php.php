<?php
// Runs one PHP script and ends. Arguments: descriptors of the request and of the reply.
// A script sees $payload (objects are associative arrays), and what it returns is its output.

function flowork_answer(array $value): void
{
    fwrite($GLOBALS['flowork_reply'], json_encode($value, FLOWORK_JSON | JSON_PARTIAL_OUTPUT_ON_ERROR) . "\n");
}

function flowork_fail(string $kind, string $message, int $line, bool $syntax): void
{
    $place = $line > 0 ? " (line $line)" : '';
    flowork_answer(['ok' => false, 'error' => "$kind: $message$place", 'syntax' => $syntax]);
    exit(1);
}

function flowork_run(string $flowork_code, mixed $payload): mixed
{
    return eval($flowork_code);
}

const FLOWORK_JSON = JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION;
$flowork_request = fopen("php://fd/$argv[1]", 'r');
$flowork_reply = fopen("php://fd/$argv[2]", 'w');
$flowork_job = json_decode(stream_get_contents($flowork_request), true, 512, JSON_BIGINT_AS_STRING);
fclose($flowork_request);
if (!is_array($flowork_job)) {
    flowork_fail('JSON', 'the payload is nested deeper than 512 levels', 0, false);
}
// An opening tag is what people write; the text behind it keeps its lines.
$flowork_code = preg_replace('/^\s*<\?php\b/', '', $flowork_job['code'], 1);
$argv = $_SERVER['argv'] = ['script.php'];
$argc = $_SERVER['argc'] = 1;

// A fatal error (out of memory, a class that does not fit its interface) can only be seen here.
register_shutdown_function(function (): void {
    $last = error_get_last();
    if ($last !== null && ($last['type'] & (E_ERROR | E_COMPILE_ERROR | E_CORE_ERROR)) !== 0) {
        flowork_answer(['ok' => false, 'error' => "PHP: $last[message] (line $last[line])", 'syntax' => false]);
    }
});

try {
    $flowork_output = flowork_run($flowork_code, $flowork_job['payload']);
    $flowork_json = json_encode(['ok' => true, 'output' => $flowork_output], FLOWORK_JSON | JSON_THROW_ON_ERROR);
    while (ob_get_level() > 0) {
        ob_end_flush();
    }
    fwrite($flowork_reply, $flowork_json . "\n");
} catch (JsonException $error) {
    fwrite(STDERR, "what the script returned is not JSON: {$error->getMessage()}\n");
    flowork_fail('JSON', "what the script returned is not JSON: {$error->getMessage()}", 0, false);
} catch (Throwable $error) {
    // Only what happened in the script, under a name that says so.
    $flowork_trace = preg_replace("/\\S*php\\.php\\(\\d+\\) : eval\\(\\)'d code/", 'script.php', (string) $error);
    $flowork_trace = preg_replace('/^#\d+ (\S*php\.php\(|\{main\}).*\n?/m', '', $flowork_trace);
    fwrite(STDERR, preg_replace('/\nStack trace:\s*$/', '', $flowork_trace) . "\n");
    flowork_fail($error::class, $error->getMessage(), $error->getLine(), $error instanceof ParseError);
}
