# Runs one Perl script and ends. Arguments: descriptors of the request and of the reply.
# A script sees $payload (references), and the value that it returns (a scalar or a reference) is its output.
use strict;
use warnings;
use IO::Handle ();
use JSON::PP ();

my ($request, $reply) = splice @ARGV, 0, 2;
my $json = JSON::PP->new->utf8->allow_nonref->canonical;
binmode STDOUT, ':encoding(UTF-8)';
binmode STDERR, ':encoding(UTF-8)';
# What is printed is in the pipe before the reply is.
$_->autoflush(1) for *STDOUT{IO}, *STDERR{IO};

sub answer {
    my $line = $json->encode($_[0]);  # may die, and then the pipe must still be open
    open my $out, '>&=', $reply or die "reply: $!";
    print {$out} $line, "\n";
    close $out or die "reply: $!";
}

sub flowork_run {
    my $payload = $_[1];
    # A string eval runs in the scalar context of the call; its lines are counted from one.
    return eval "no strict; no warnings; use utf8;\n#line 1 \"script.pl\"\n$_[0]";
}

open my $in, '<&=', $request or die "request: $!";
my $job = $json->decode(do { local $/; <$in> });
close $in;

$0 = 'script.pl';
my $output = flowork_run($job->{code}, $job->{payload});
if (my $error = $@) {
    my $syntax = $error =~ /^(?:syntax error|Execution of script)|had compilation errors|Can't find string/m;
    print STDERR $error;
    chomp $error;
    answer({ ok => JSON::PP::false, error => "$error", syntax => $syntax ? JSON::PP::true : JSON::PP::false });
    exit 1;
}
my $done = eval { answer({ ok => JSON::PP::true, output => $output }); 1 };
if (!$done) {
    print STDERR $@;
    answer({ ok => JSON::PP::false, error => "what the script returned is not JSON: $@" });
    exit 1;
}
exit 0;
