package bootstrap

import "strings"

// passwordWords are the words for "password" in the prompts of sudo, su, doas, PAM and OpenSSH in the languages that they are
// translated to, in lower case.
var passwordWords = []string{
	"password", "passwd", "passphrase", "first factor",
	"passwort", "kennwort", // German
	"mot de passe", "phrase de passe", // French
	"contraseña", "clave", // Spanish
	"contrasenya", "clau de pas", // Catalan
	"contrasinal",           // Galician
	"palavra-passe",         // Portuguese
	"senha",                 // Brazilian Portuguese
	"parola", "password di", // Italian, Turkish
	"parolă", "parolei", // Romanian
	"wachtwoord",             // Dutch
	"lösenord",               // Swedish
	"adgangskode", "kodeord", // Danish
	"passord",                // Norwegian
	"salasana",               // Finnish
	"lykilorð", "aðgangsorð", // Icelandic
	"parool", "salasõna", // Estonian
	"parole",             // Latvian
	"slaptažodis",        // Lithuanian
	"hasło",              // Polish
	"heslo",              // Czech, Slovak
	"geslo",              // Slovenian
	"lozinka", "zaporka", // Croatian, Serbian in Latin letters
	"лозинка",             // Serbian
	"пароль",              // Russian, Ukrainian, Belarusian
	"парола",              // Bulgarian
	"құпия сөз", "пароли", // Kazakh
	"jelszó",                   // Hungarian
	"şifre",                    // Turkish
	"fjalëkalimi",              // Albanian
	"pasahitza",                // Basque
	"pasvorto",                 // Esperanto
	"pasfhocal", "focal faire", // Irish
	"facal-faire",            // Scottish Gaelic
	"cyfrinair",              // Welsh
	"ger-tremen",             // Breton
	"κωδικός", "συνθηματικό", // Greek
	"გასაღები", "პაროლი", // Georgian
	"գաղտնաբառ",     // Armenian
	"סיסמה", "ססמה", // Hebrew
	"كلمة المرور", "كلمة السر", "كلمة سر", // Arabic
	"گذرواژه", "رمز عبور", // Persian
	"پاس ورڈ",                                        // Urdu
	"पासवर्ड", "गोपनीय शब्द", "कूटशब्द", "गुप्तशब्द", // Hindi, Marathi, Nepali
	"পাসওয়ার্ড",               // Bengali
	"ਪਾਸਵਰਡ",                   // Punjabi
	"પાસવર્ડ",                  // Gujarati
	"ପାସୱାର୍ଡ", "ପ୍ରବେଶ ସଂକେତ", // Odia
	"கடவுச்சொல்",                   // Tamil
	"సంకేతపదము", "పాస్\u200cవర్డ్", // Telugu
	"ಗುಪ್ತಪದ", "ಪ್ರವೇಶಪದ", // Kannada
	"അടയാളവാക്ക്", "രഹസ്യവാക്ക്", // Malayalam
	"මුරපදය",              // Sinhala
	"รหัสผ่าน",            // Thai
	"mật khẩu",            // Vietnamese
	"kata sandi", "sandi", // Indonesian
	"kata laluan",           // Malay
	"密码", "口令", "密碼", "通行碼", // Chinese
	"パスワード",              // Japanese
	"암호", "비밀번호", "패스워드", // Korean
}

// passwordPattern finds an unfinished line that asks for a password in any of those languages: the word, whatever follows it
// ("for root"), and a colon, which may be the full-width one of East Asian text.
var passwordPattern = `(?i)(` + strings.Join(passwordWords, "|") + `)[^:：\n]{0,100}[:：] *$`

// namePassword is the Name of the prompts whose answer is the password.
const namePassword = "password"

// changePattern finds the questions of a password change, which PAM asks when a password has expired. None of them may be
// answered with the password in use: the next question would then ask for the new one.
const changePattern = `(?i)^ *(\([^()@]*@[^()@]*\) |\[sudo: [^\]]*\] )?\(?(current|old|new|enter new|retype|retype new|re-enter new|repeat new)\)?( unix)? password[^:：]{0,60}[:：] *$`

// codePattern finds questions for a second factor.
const codePattern = `(?i)(\b(code|passcode|tokencode|pin|otp|tan|yubikey)\b|one[- ]time|second factor|authenticator)[^:：\n]{0,100}[:：?] *$`

const (
	hintPassword = "password_env=NAME, password_file=PATH, the inventory, or --ask-pass and --ask-become-pass"
	hintRefused  = "check the password by hand; it was sent once and will not be tried again"
	hintNotAsked = "no question came that the password could answer, so it was not sent"
)

// otherPrompts are the questions for something else than the password in use. They may come in place of it, and after it.
func otherPrompts(who string) []Prompt {
	return []Prompt{
		{Name: "password change", Pattern: changePattern, Settle: true, Missing: "the password has expired and must be changed", Hint: "log in by hand once and change it"},
		{Name: "second factor", Pattern: codePattern, Settle: true, Missing: who + " asks for a second factor, which is not the password", Hint: "an agent, a key or a ControlMaster connection opened by hand"},
	}
}

// passwordPrompt is a question for the password. A program that asks again has refused it.
func passwordPrompt(who, pattern string, password Secret, known bool) Prompt {
	return Prompt{Name: namePassword, Pattern: pattern, Answer: password, Known: known, Hint: hint(known),
		Missing: who + " asks for a password and none was given", Refused: who + " has refused the password"}
}

// passwordPrompts are the questions that any method with a password may meet. own is the pattern of password_prompt, and exact one
// of the program's own question; both may be empty, and need no time to settle. If whole is true, exact is all of that question: a
// user or a host whose name looks like a second factor's does not make it one.
func passwordPrompts(who string, password Secret, known bool, own, exact string, whole bool) []Prompt {
	var prompts []Prompt
	if own != "" {
		prompts = append(prompts, passwordPrompt(who, own, password, known))
		prompts[0].own = ownPattern(own)
	}
	if whole {
		prompts = append(prompts, passwordPrompt(who, exact, password, known))
		exact = ""
	}
	prompts = append(prompts, otherPrompts(who)...)
	if exact != "" {
		prompts = append(prompts, passwordPrompt(who, exact, password, known))
	}
	generic := passwordPrompt(who, passwordPattern, password, known)
	generic.Settle = true
	return append(prompts, generic)
}

func hint(known bool) string {
	if known {
		return hintRefused
	}
	return hintPassword
}

// accountFailures are PAM's complaints about an account, the same behind every program.
var accountFailures = []Failure{
	{Pattern: `(?i)account or password is expired`, Reason: "the account or its password has expired", Hint: "log in by hand once and change it, or ask the target's administrator (chage -l)"},
	{Pattern: `(?i)(password|authentication token)( has| is)? expired|password has expired|required to change your password|password change required|new authentication token required`,
		Reason: "the password has expired and must be changed", Hint: "log in by hand once and change it"},
	{Pattern: `(?i)account (has |is )?(been )?(locked|expired)|account (validation failure|temporarily locked)|user account has expired`,
		Reason: "the account is locked or has expired", Hint: "ask the target's administrator (passwd -S, chage -l)"},
	{Pattern: `(?i)account is currently not available|/(nologin|false): `, Reason: "the account has no login shell", Hint: "give it one (chsh), or take another user"},
	{Pattern: `(?i)^System is (booting up|going down)`, Reason: "the target refuses logins just now", Hint: "wait until it is up"},
}
